// Images and arrays from files, without torch: what is read here is compiled in a second.

#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace tvc_run {

// One sentence for the person at the terminal. It ends the program with exit code 1.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// 8 bits a channel, rows from the top, red, green and blue of a pixel together.
struct Image {
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> rgb;
};

// An array in the type of its file, e.g. "<f4", its last dimension the densest.
struct Array {
  std::string type;
  std::vector<int64_t> shape;
  std::vector<char> data;
};

enum class Kind { png, jpeg, npy, zip, unknown };

std::vector<char> read_file(const std::string& path);
Kind kind_of(const std::vector<char>& bytes);

// `path` is only for the sentences of failures. Alpha is dropped, grey becomes three equal channels, 16 bits become 8.
Image decode_png(const std::string& path, const std::vector<char>& bytes);
Image decode_jpeg(const std::string& path, const std::vector<char>& bytes);
Array decode_npy(const std::string& path, const std::vector<char>& bytes);

// C order, little-endian float32.
std::string encode_npy(const std::vector<int64_t>& shape, const float* data);

}  // namespace tvc_run
