# camo_library(NAME deps...): a static library camo_NAME (alias camo::NAME) from all .cpp and .cu files below this folder.
# With CUDA off, .cu files compile as plain C++.
function(camo_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/*.cu)
  if(NOT CAMO_CUDA_ON)  # what only makes sense with CUDA has a folder of that name
    list(FILTER sources EXCLUDE REGEX "/cuda/")
  endif()
  if(NOT sources)
    file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/none.cpp CONTENT "")
    set(sources ${CMAKE_CURRENT_BINARY_DIR}/none.cpp)
  endif()
  camo_cuda_sources(${sources})
  add_library(camo_${name} STATIC ${sources})
  add_library(camo::${name} ALIAS camo_${name})
  set_target_properties(camo_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(camo_${name} PUBLIC cxx_std_20)
  target_include_directories(camo_${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}> $<INSTALL_INTERFACE:include/camo>)
  target_link_libraries(camo_${name} PUBLIC $<BUILD_INTERFACE:camo_flags> OpenMP::OpenMP_CXX Threads::Threads ${ARGN})
endfunction()

# The LANGUAGE of a source holds in the folder that sets it: call this where the target is made.
function(camo_cuda_sources)
  set(cu_sources ${ARGN})
  list(FILTER cu_sources INCLUDE REGEX "\\.cu$")
  if(cu_sources AND NOT CAMO_CUDA_ON)
    set_source_files_properties(${cu_sources} PROPERTIES LANGUAGE CXX)
  endif()
endfunction()
