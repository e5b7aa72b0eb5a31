#!/usr/bin/env bash
# Unpacks the headers and shared objects camo needs from Debian packages into a folder that can be copied to a machine
# without network access. CMake finds .offline-deps by itself; another folder with -DCAMO_OFFLINE_DEPS=DIR.
#   scripts/offline_deps.sh [-o DIR] [EXTRA_PACKAGE...]
# GoogleTest and Eigen are left out (the GPU machines have them): name libgtest-dev libgmock-dev libeigen3-dev as extras.
set -euo pipefail

target=$(cd "$(dirname "$0")/.." && pwd)/.offline-deps
if [[ ${1:-} == -o ]]; then
  target=$2
  shift 2
fi
development=(libdnnl-dev libturbojpeg0-dev libstb-dev libcli11-dev nlohmann-json3-dev libfmt-dev "$@")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# The shared objects lie in the run-time packages (libdnnl2, libfmt9, ...) whose names mostly carry versions; libdnnl in turn
# loads an OpenCL loader.
run_time() {
  apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
    sed -n 's/^ *|\{0,1\}Depends: \([a-z0-9.+-]*\)$/\1/p' | grep -E '^lib(dnnl|turbojpeg|fmt)[0-9.]*$' | sort -u
}
[[ -n $(apt-cache policy libdnnl-dev 2>/dev/null) ]] || apt-get update -qq
mapfile -t libraries < <(run_time "${development[@]}")
packages=("${development[@]}" "${libraries[@]}" ocl-icd-libopencl1)
echo "Downloading: ${packages[*]}"
if ! (cd "$work" && apt-get download -qq "${packages[@]}" 2>download.log); then
  cat "$work/download.log" >&2
  echo "offline_deps: apt-get could not download the packages above; this needs network access" >&2
  exit 1
fi
for deb in "$work"/*.deb; do dpkg -x "$deb" "$work/root"; done

rm -rf "$target"
mkdir -p "$target/include" "$target/lib"
cp -r "$work/root/usr/include/." "$target/include/"
find "$work/root/usr/lib" \( -name '*.so' -o -name '*.so.*' \) -exec cp -P {} "$target/lib/" \;
# Static twins only where no shared object exists (GoogleTest).
find "$work/root/usr/lib" -name '*.a' | while read -r archive; do
  [[ -e $target/lib/$(basename "${archive%.a}").so ]] || cp "$archive" "$target/lib/"
done
rm -f "$target"/lib/libstb.*
missing=$(find "$target/lib" -xtype l)
if [[ -n $missing ]]; then
  echo "offline_deps: the run-time packages lack what these links lead to: $missing" >&2
  exit 1
fi
[[ -d $target/include/eigen3 ]] && rm -rf "$target/include/eigen3/unsupported"
du -sh "$target" | sed 's/\t/ in /'
