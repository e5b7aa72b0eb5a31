# The libraries camo uses besides CUDA, as targets camo_deps::NAME. Found by header and library file, because the CMake
# files of Debian's packages hold absolute paths and can't be moved into a folder made by `make offline-deps`.
# An installed camo ships this file: find_package(camo) includes it.
#
# CAMO_OFFLINE_DEPS is such a folder (include/, lib/). Named explicitly it comes before the system's packages;
# .offline-deps in the source tree, if there, is looked at after them.
set(CAMO_OFFLINE_DEPS "" CACHE PATH "Folder made by `make offline-deps`, searched before the system's packages")
if(CAMO_OFFLINE_DEPS)
  list(PREPEND CMAKE_PREFIX_PATH ${CAMO_OFFLINE_DEPS})
elseif(EXISTS ${CMAKE_CURRENT_LIST_DIR}/../.offline-deps)
  get_filename_component(camo_deps_fallback ${CMAKE_CURRENT_LIST_DIR}/../.offline-deps ABSOLUTE)
  list(APPEND CMAKE_SYSTEM_PREFIX_PATH ${camo_deps_fallback})
endif()

# camo_dependency(NAME HEADER file [LIBRARY name] [ROOT folder] [DEFINITIONS ...] [LINKS targets...]): makes camo_deps::NAME; sets
# CAMO_HAVE_NAME (in capitals) to whether it was found. Found libraries in an offline folder need their own rpath, also
# for the libraries they load in turn, which only the old DT_RPATH tag gives.
function(camo_dependency name)
  cmake_parse_arguments(arg "" "HEADER;LIBRARY;ROOT" "DEFINITIONS;LINKS" ${ARGN})
  string(TOUPPER ${name} upper)
  find_path(CAMO_${upper}_INCLUDE ${arg_HEADER} PATHS ${arg_ROOT}/include)
  mark_as_advanced(CAMO_${upper}_INCLUDE)
  if(arg_LIBRARY)
    find_library(CAMO_${upper}_LIBRARY ${arg_LIBRARY} PATHS ${arg_ROOT}/lib64)
    mark_as_advanced(CAMO_${upper}_LIBRARY)
  endif()
  set(found OFF)
  if(CAMO_${upper}_INCLUDE AND (NOT arg_LIBRARY OR CAMO_${upper}_LIBRARY))
    set(found ON)
    if(NOT TARGET camo_deps::${name})
      add_library(camo_deps::${name} INTERFACE IMPORTED)
      target_include_directories(camo_deps::${name} SYSTEM INTERFACE ${CAMO_${upper}_INCLUDE})
      target_compile_definitions(camo_deps::${name} INTERFACE ${arg_DEFINITIONS})
      target_link_libraries(camo_deps::${name} INTERFACE ${arg_LINKS})
      if(arg_LIBRARY)
        target_link_libraries(camo_deps::${name} INTERFACE ${CAMO_${upper}_LIBRARY})
        if(NOT CAMO_${upper}_LIBRARY MATCHES "^/usr/")
          target_link_options(camo_deps::${name} INTERFACE LINKER:--disable-new-dtags)
        endif()
      endif()
    endif()
  endif()
  set(CAMO_HAVE_${upper} ${found} PARENT_SCOPE)
endfunction()

camo_dependency(dnnl HEADER dnnl.hpp LIBRARY dnnl)
camo_dependency(turbojpeg HEADER turbojpeg.h LIBRARY turbojpeg)
camo_dependency(stb HEADER stb/stb_image.h)
camo_dependency(json HEADER nlohmann/json.hpp)
camo_dependency(cli11 HEADER CLI/CLI.hpp)
camo_dependency(fmt HEADER fmt/format.h LIBRARY fmt)
camo_dependency(cudnn HEADER cudnn.h LIBRARY cudnn ROOT /usr/local/cuda)
