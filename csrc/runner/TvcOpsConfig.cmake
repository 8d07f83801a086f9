# The ops of torchvision-customizer for a C++ program that has no Python in it:
#
#   find_package(TvcOps REQUIRED)                            # -DTvcOps_DIR=$(tvc doctor --cmake-dir)
#   add_executable(classify main.cpp)
#   target_link_libraries(classify PRIVATE TvcOps::ops)      # torch::jit::load now knows tvc::squeeze_excite and the rest
#
# Targets:
#   TvcOps::ops       schemas and CPU kernels, kept although the program names no symbol of them, and TvcOps::torch
#   TvcOps::ops_cuda  the CUDA kernels and TvcOps::ops; only where this wheel and torch were both built with CUDA
#   TvcOps::torch     LibTorch's headers and libraries
#
# TvcOps::torch is, in this order: what the project's own find_package(Torch) found, where that came first; the folder
# TvcOps_TORCH_ROOT, of an unpacked LibTorch or of an installed torch; the torch beside this package; the torch of the Python that
# CMake finds. Only for the first does CMake ask for the CUDA toolkit that torch was built with: headers and libraries are enough.

get_filename_component(_tvc_folder "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
set(TvcOps_LIBRARY "${_tvc_folder}/libtvc_ops.so")
if(NOT EXISTS "${TvcOps_LIBRARY}")
  set(TvcOps_FOUND FALSE)
  set(TvcOps_NOT_FOUND_MESSAGE "There is no ${TvcOps_LIBRARY}. Give the folder that `tvc doctor --cmake-dir` prints.")
  return()
endif()

# ---- torch ----

if(NOT TARGET TvcOps::torch)
  if(TARGET torch)
    add_library(TvcOps::torch INTERFACE IMPORTED)
    set_target_properties(TvcOps::torch PROPERTIES INTERFACE_LINK_LIBRARIES "${TORCH_LIBRARIES}")
    set(_tvc_torch "${TORCH_INSTALL_PREFIX}")
  else()
    if(DEFINED TvcOps_TORCH_ROOT)
      get_filename_component(_tvc_torch "${TvcOps_TORCH_ROOT}" ABSOLUTE BASE_DIR "${CMAKE_BINARY_DIR}")
      set(_tvc_source "TvcOps_TORCH_ROOT")
    elseif(EXISTS "${_tvc_folder}/../torch/lib/libtorch_cpu.so")
      get_filename_component(_tvc_torch "${_tvc_folder}/../torch" ABSOLUTE)
      set(_tvc_source "the folder beside this package")
    else()
      find_package(Python3 QUIET COMPONENTS Interpreter)
      set(_tvc_torch "")
      set(_tvc_source "the Python that CMake finds, '${Python3_EXECUTABLE}'")
      if(Python3_EXECUTABLE)
        execute_process(
          COMMAND "${Python3_EXECUTABLE}" -c
                  "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0], end='')"
          OUTPUT_VARIABLE _tvc_torch ERROR_QUIET)
      endif()
    endif()
    set(_tvc_missing "")
    foreach(_tvc_file lib/libtorch.so lib/libtorch_cpu.so lib/libc10.so include/torch/script.h)
      if(NOT EXISTS "${_tvc_torch}/${_tvc_file}")
        set(_tvc_missing "${_tvc_missing} ${_tvc_file}")
      endif()
    endforeach()
    if(_tvc_missing)
      set(TvcOps_FOUND FALSE)
      set(TvcOps_NOT_FOUND_MESSAGE
          "No torch in '${_tvc_torch}', which is from ${_tvc_source}: it lacks${_tvc_missing}. Set -DTvcOps_TORCH_ROOT to a \
folder that has them: an unpacked LibTorch, or what `python -c 'import torch; print(torch.__path__[0])'` prints.")
      return()
    endif()
    add_library(TvcOps::torch INTERFACE IMPORTED)
    # One item a library, so that CMake, which moves and merges items, cannot part a library from its flags. libtorch.so has no
    # symbols: it is what brings CUDA in where torch has it. Plain paths give the rpath of the build tree.
    set_target_properties(
      TvcOps::torch
      PROPERTIES
        INTERFACE_LINK_LIBRARIES
        "-Wl,--push-state,--no-as-needed,\"${_tvc_torch}/lib/libtorch.so\",--pop-state;${_tvc_torch}/lib/libtorch_cpu.so;${_tvc_torch}/lib/libc10.so"
        INTERFACE_INCLUDE_DIRECTORIES "${_tvc_torch}/include;${_tvc_torch}/include/torch/csrc/api/include"
        # From 2.13 on torch's headers use it.
        INTERFACE_COMPILE_FEATURES cxx_std_20)
  endif()

  set(TvcOps_TORCH_VERSION "")
  foreach(_tvc_file include/torch/headeronly/version.h include/torch/csrc/api/include/torch/version.h)
    if(NOT TvcOps_TORCH_VERSION AND EXISTS "${_tvc_torch}/${_tvc_file}")
      file(STRINGS "${_tvc_torch}/${_tvc_file}" _tvc_lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
      string(REGEX REPLACE "#define TORCH_VERSION_[A-Z]+ +" "" _tvc_lines "${_tvc_lines}")
      string(REPLACE ";" "." TvcOps_TORCH_VERSION "${_tvc_lines}")
    endif()
  endforeach()
  if(TvcOps_TORCH_VERSION AND TvcOps_TORCH_VERSION VERSION_LESS 2.10)
    set(TvcOps_FOUND FALSE)
    set(TvcOps_NOT_FOUND_MESSAGE
        "The native ops need torch 2.10 or later, whose ABI is stable, found ${TvcOps_TORCH_VERSION} in ${_tvc_torch}.")
    return()
  endif()
  if(NOT TvcOps_FIND_QUIETLY)
    message(STATUS "TvcOps: ${TvcOps_LIBRARY}, with torch ${TvcOps_TORCH_VERSION} in ${_tvc_torch}")
  endif()
endif()

# ---- the ops ----

if(NOT TARGET TvcOps::ops)
  # libtvc_ops.so has no rpath of its own, and an executable's RUNPATH is not searched for what its libraries need: so the
  # executable itself names libtorch_cpu.so too, also where it calls nothing of it.
  add_library(TvcOps::ops INTERFACE IMPORTED)
  set_target_properties(
    TvcOps::ops
    PROPERTIES
      INTERFACE_LINK_LIBRARIES
      "-Wl,--push-state,--no-as-needed,\"${TvcOps_LIBRARY}\",\"${_tvc_torch}/lib/libtorch_cpu.so\",--pop-state;${TvcOps_LIBRARY};TvcOps::torch")
endif()

set(TvcOps_CUDA_LIBRARY "${_tvc_folder}/libtvc_ops_cuda.so")
if(NOT TARGET TvcOps::ops_cuda AND EXISTS "${TvcOps_CUDA_LIBRARY}" AND EXISTS "${_tvc_torch}/lib/libtorch_cuda.so")
  add_library(TvcOps::ops_cuda INTERFACE IMPORTED)
  set_target_properties(
    TvcOps::ops_cuda
    PROPERTIES
      INTERFACE_LINK_LIBRARIES
      "-Wl,--push-state,--no-as-needed,\"${TvcOps_CUDA_LIBRARY}\",\"${_tvc_torch}/lib/libtorch_cuda.so\",--pop-state;${TvcOps_CUDA_LIBRARY};TvcOps::ops")
endif()
