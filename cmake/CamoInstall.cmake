# `cmake --install`: libraries, headers and a package file, so that find_package(camo) offers camo::core, camo::ops,
# camo::nn, camo::models and camo::data.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(camo_layers core ops nn models data)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/camo)
foreach(layer ${camo_layers})
  install(TARGETS camo_${layer} EXPORT camoTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT libraries)
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/${layer} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/camo COMPONENT libraries
    FILES_MATCHING PATTERN "*.h" PATTERN "*.cuh")
endforeach()
install(EXPORT camoTargets NAMESPACE camo:: DESTINATION ${package_dir} COMPONENT libraries)
# Linked privately, but a static library hands them on to the final link.
set(CAMO_USED_DEPENDENCIES "")
foreach(dependency dnnl turbojpeg)
  if(TARGET camo_deps::${dependency})
    list(APPEND CAMO_USED_DEPENDENCIES ${dependency})
  endif()
endforeach()
configure_package_config_file(cmake/camoConfig.cmake.in ${CMAKE_BINARY_DIR}/camoConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/camoConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/camoConfig.cmake ${CMAKE_BINARY_DIR}/camoConfigVersion.cmake
  cmake/CamoDependencies.cmake DESTINATION ${package_dir} COMPONENT libraries)
if(TARGET camoxpert)
  install(TARGETS camoxpert RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT programs)
endif()
