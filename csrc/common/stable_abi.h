#pragma once
// Gaps of the LibTorch stable ABI at our target, torch 2.10, each with the version that closes it.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>

// 2.12: tags on a schema. Weak, so that the library loads on 2.10 and 2.11 too, where ops stay untagged.
extern "C" {
__attribute__((weak)) AOTITorchError torch_library_def_with_tags(TorchLibraryHandle library, const char* schema,
                                                                 const int32_t* tags, int32_t num_tags);
__attribute__((weak)) int32_t torch_tag_flexible_layout();
__attribute__((weak)) int32_t torch_tag_pt2_compliant_tag();
}

namespace tvc {

// STABLE_TORCH_LIBRARY, with every op tagged as taking any layout, so that a compiler puts no copies round it.
class Schemas {
 public:
  Schemas(void (*definitions)(Schemas&), const char* file, uint32_t line) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_library_init_def("tvc", file, line, &library_));
    definitions(*this);
  }
  Schemas(const Schemas&) = delete;
  Schemas& operator=(const Schemas&) = delete;
  ~Schemas() {
    aoti_torch_delete_library_object(library_);
  }

  void define(const char* schema) {
    if (torch_library_def_with_tags && torch_tag_flexible_layout && torch_tag_pt2_compliant_tag) {
      const int32_t tags[] = {torch_tag_flexible_layout(), torch_tag_pt2_compliant_tag()};
      STABLE_TORCH_ERROR_CODE_CHECK(torch_library_def_with_tags(library_, schema, tags, 2));
    } else {
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_library_def(library_, schema));
    }
  }

 private:
  TorchLibraryHandle library_ = nullptr;
};

}  // namespace tvc

#define TVC_SCHEMAS(m)                                                     \
  static void tvc_define_schemas(tvc::Schemas&);                           \
  static tvc::Schemas tvc_schemas(tvc_define_schemas, __FILE__, __LINE__); \
  static void tvc_define_schemas(tvc::Schemas& m)
