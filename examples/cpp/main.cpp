// Classifies a PNG with a TorchScript file, without Python:
//
//   tvc export --backbone resnet18 --weights DEFAULT --patch 'layer*=inject:se' --output model.pt
//   cmake -S examples/cpp -B build/classify -DTvcOps_DIR="$(tvc doctor --cmake-dir)" && cmake --build build/classify
//   build/classify/classify model.pt photo.png
//
// Nothing below is about the ops: linking TvcOps::ops is what makes torch::jit::load know them.

#include <png.h>
#include <torch/script.h>

#include <cmath>
#include <cstdio>
#include <iostream>

// (1, 3, H, W), uint8
at::Tensor read_png(const char* path) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  TORCH_CHECK(png_image_begin_read_from_file(&png, path), path, ": ", png.message);
  png.format = PNG_FORMAT_RGB;
  at::Tensor pixels = at::empty({1, png.height, png.width, 3}, at::kByte);
  TORCH_CHECK(png_image_finish_read(&png, nullptr, pixels.data_ptr(), 0, nullptr), path, ": ", png.message);
  return pixels.permute({0, 3, 1, 2}).contiguous();
}

// As torchvision's ImageNet models want it: the short side 256 pixels, the middle 224 x 224, mean and deviation of ImageNet.
at::Tensor preprocess(const at::Tensor& image) {
  const int64_t h = image.size(2), w = image.size(3), size = 256, crop = 224;
  const int64_t target[] = {h <= w ? size : size * h / w, h <= w ? size * w / h : size};
  at::Tensor x = at::_upsample_bilinear2d_aa(image.to(at::kFloat), target, /*align_corners=*/false).round();
  x = x.narrow(2, std::lrint((target[0] - crop) / 2.0), crop).narrow(3, std::lrint((target[1] - crop) / 2.0), crop) / 255;
  const at::Tensor mean = at::tensor({0.485f, 0.456f, 0.406f}).view({3, 1, 1});
  const at::Tensor deviation = at::tensor({0.229f, 0.224f, 0.225f}).view({3, 1, 1});
  return (x - mean) / deviation;
}

int main(int argc, char** argv) try {
  TORCH_CHECK(argc == 3, "usage: classify MODEL.pt PHOTO.png");
  c10::InferenceMode inference;
  torch::jit::Module model = torch::jit::load(argv[1]);
  const at::Tensor logits = model.forward({preprocess(read_png(argv[2]))}).toTensor();
  const auto [scores, classes] = logits.topk(5);
  for (int64_t i = 0; i < 5; ++i) {
    std::printf("%4ld  %.9g\n", classes[0][i].item<long>(), scores[0][i].item<double>());
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
