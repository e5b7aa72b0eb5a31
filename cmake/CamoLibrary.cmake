# camo_library(NAME deps...): a static library camo_NAME (alias camo::NAME) from all .cpp and .cu files below this folder.
# With CUDA off, .cu files compile as plain C++.
function(camo_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/*.cu)
  camo_cuda_sources(${sources})
  add_library(camo_${name} STATIC ${sources})
  add_library(camo::${name} ALIAS camo_${name})
  set_target_properties(camo_${name} PROPERTIES EXPORT_NAME ${name})
  target_link_libraries(camo_${name} PUBLIC camo_flags ${ARGN})
  target_include_directories(camo_${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}> $<INSTALL_INTERFACE:include/camo>)
endfunction()

function(camo_cuda_sources)
  set(cu_sources ${ARGN})
  list(FILTER cu_sources INCLUDE REGEX "\\.cu$")
  if(cu_sources AND NOT CAMO_CUDA_ON)
    set_source_files_properties(${cu_sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  endif()
endfunction()
