#!/usr/bin/env bash
# Installs what building and testing camo needs on Debian and Ubuntu; does nothing when all of it is there.
# CAMO_SKIP_DEPS=1 trusts the machine as it is (a GPU machine without packages: see `make offline-deps`).
#   scripts/install_deps.sh          install what is missing
#   scripts/install_deps.sh --lint   the same, and the tools of `make lint`
#   scripts/install_deps.sh --list   print the packages
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache python3
  libeigen3-dev libdnnl-dev libturbojpeg0-dev libstb-dev
  libcli11-dev nlohmann-json3-dev libfmt-dev
  libgtest-dev libgmock-dev
)
[[ ${1:-} == --lint ]] && packages+=(clang-format clang-tidy)

if [[ ${1:-} == --list ]]; then
  printf '%s\n' "${packages[@]}"
  exit
fi
[[ ${CAMO_SKIP_DEPS:-0} == 1 ]] && exit

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install_deps: this machine has no apt-get. Install the equivalents of these Debian packages, then run make with" \
       "CAMO_SKIP_DEPS=1: ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
  [[ $status == "install ok installed" ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

sudo=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install_deps: missing packages, and neither root nor sudo to install them. Ask an administrator for:" \
         "apt-get install ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi
echo "Installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=("${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}")
# A fresh machine has no package lists: fetch them first only when they are needed, as that takes a while.
if ! "${install[@]}" >/dev/null 2>&1; then
  if ! "${sudo[@]}" apt-get update -qq || ! "${install[@]}" >/dev/null; then
    echo "install_deps: apt-get could not install: ${missing[*]}. See its message above; without network, build on" \
         "the libraries of a folder made by 'make offline-deps' elsewhere, with CAMO_SKIP_DEPS=1." >&2
    exit 1
  fi
fi
