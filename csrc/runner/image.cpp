#include "image.h"

#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>

#ifdef TVC_PNG
#include <png.h>
#endif
#ifdef TVC_JPEG
#include <jpeglib.h>
// jpeglib.h must come first.
#include <jerror.h>
#endif

namespace tvc_run {

std::vector<char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0 || size == std::numeric_limits<std::streamoff>::max()) {  // the largest number is what a folder's end says
    throw Failure(file ? path + " is a folder or no plain file" : "cannot read " + path + ": " + std::strerror(errno));
  }
  std::vector<char> bytes(static_cast<size_t>(size));
  file.seekg(0);
  if (!file.read(bytes.data(), size))
    throw Failure("cannot read " + path + ": " + std::strerror(errno));
  return bytes;
}

Kind kind_of(const std::vector<char>& bytes) {
  const auto begins = [&](const char* magic, size_t length) {
    return bytes.size() >= length && std::memcmp(bytes.data(), magic, length) == 0;
  };
  if (begins("\x89PNG", 4))
    return Kind::png;
  if (begins("\xff\xd8\xff", 3))
    return Kind::jpeg;
  if (begins("\x93NUMPY", 6))
    return Kind::npy;
  if (begins("PK\x03\x04", 4))
    return Kind::zip;
  return Kind::unknown;
}

// Both libraries report errors through longjmp, which runs no destructor: between setjmp and the end of a function stand only
// plain values, and what owns memory belongs to the caller.

#ifdef TVC_PNG
namespace {

struct PngSource {
  const char* next;
  size_t left;
  char message[200];
};

void png_copy(png_structp png, png_bytep out, size_t count) {
  auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
  if (count > source->left)
    png_error(png, "the file ends too early");
  std::memcpy(out, source->next, count);
  source->next += count;
  source->left -= count;
}

[[noreturn]] void png_fail(png_structp png, png_const_charp message) {
  auto* source = static_cast<PngSource*>(png_get_error_ptr(png));
  std::snprintf(source->message, sizeof source->message, "%s", message);
  png_longjmp(png, 1);
}

void png_ignore(png_structp, png_const_charp) {}

bool read_png(PngSource& source, Image& image, std::vector<png_bytep>& rows) {
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, png_fail, png_ignore);
  if (png == nullptr)
    return false;
  png_infop info = png_create_info_struct(png);
  if (info == nullptr || setjmp(png_jmpbuf(png))) {
    png_destroy_read_struct(&png, &info, nullptr);
    return false;
  }
  png_set_read_fn(png, &source, png_copy);
  png_read_info(png, info);
  png_set_expand(png);
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  image.height = png_get_image_height(png, info);
  image.width = png_get_image_width(png, info);
  const size_t stride = png_get_rowbytes(png, info);
  if (stride != static_cast<size_t>(image.width) * 3)
    png_error(png, "its pixels are not red, green and blue");
  image.rgb.resize(stride * static_cast<size_t>(image.height));
  rows.resize(static_cast<size_t>(image.height));
  for (size_t y = 0; y < rows.size(); ++y)
    rows[y] = image.rgb.data() + y * stride;
  png_read_image(png, rows.data());
  png_read_end(png, nullptr);
  png_destroy_read_struct(&png, &info, nullptr);
  return true;
}

}  // namespace
#endif

Image decode_png(const std::string& path, const std::vector<char>& bytes) {
#ifdef TVC_PNG
  PngSource source{bytes.data(), bytes.size(), "libpng has no memory"};
  Image image;
  std::vector<png_bytep> rows;
  if (!read_png(source, image, rows))
    throw Failure(path + " is a damaged PNG: " + source.message);
  return image;
#else
  (void)bytes;
  throw Failure(path + " is a PNG, and this tvc-run was built without libpng; install libpng-dev and build it again");
#endif
}

#ifdef TVC_JPEG
namespace {

struct JpegErrors {
  jpeg_error_mgr base;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void jpeg_fail(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  errors->base.format_message(jpeg, errors->message);
  std::longjmp(errors->jump, 1);
}

// To libjpeg a file that ends too early is a warning, and the rest of the image grey.
void jpeg_warn(j_common_ptr jpeg, int level) {
  const int code = jpeg->err->msg_code;
  if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER))
    jpeg_fail(jpeg);
}

bool read_jpeg(const std::vector<char>& bytes, JpegErrors& errors, Image& image) {
  jpeg_decompress_struct jpeg;
  jpeg.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = jpeg_fail;
  errors.base.emit_message = jpeg_warn;
  if (setjmp(errors.jump)) {
    jpeg_destroy_decompress(&jpeg);
    return false;
  }
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&jpeg, TRUE);
  jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&jpeg);
  image.height = jpeg.output_height;
  image.width = jpeg.output_width;
  const size_t stride = static_cast<size_t>(image.width) * 3;
  image.rgb.resize(stride * static_cast<size_t>(image.height));
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW row = image.rgb.data() + jpeg.output_scanline * stride;
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_decompress(&jpeg);
  jpeg_destroy_decompress(&jpeg);
  return true;
}

}  // namespace
#endif

Image decode_jpeg(const std::string& path, const std::vector<char>& bytes) {
#ifdef TVC_JPEG
  JpegErrors errors{};
  Image image;
  if (!read_jpeg(bytes, errors, image))
    throw Failure(path + " cannot be decoded as JPEG: " + errors.message);
  return image;
#else
  (void)bytes;
  throw Failure(path + " is a JPEG, and this tvc-run was built without libjpeg; install libjpeg-dev and build it again");
#endif
}

// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html: magic, version, length of the header, and the header,
// a Python dictionary: {'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 224, 224), }
Array decode_npy(const std::string& path, const std::vector<char>& bytes) {
  const auto damaged = [&](const std::string& why) { return Failure(path + " is a damaged .npy file: " + why); };
  const size_t prefix = bytes.size() > 6 && bytes[6] > 1 ? 12 : 10;
  if (bytes.size() < prefix)
    throw damaged("it ends in its header");
  size_t length = 0;
  for (size_t i = 8; i < prefix; ++i)
    length |= static_cast<size_t>(static_cast<unsigned char>(bytes[i])) << (8 * (i - 8));
  if (bytes.size() - prefix < length)
    throw damaged("it ends in its header");
  const std::string header(bytes.data() + prefix, length);
  const auto after = [&](const std::string& key) {
    const size_t at = header.find("'" + key + "':");
    const size_t value = at == std::string::npos ? at : header.find_first_not_of(' ', at + key.size() + 3);
    if (value == std::string::npos)
      throw damaged("its header has no " + key);
    return value;
  };
  Array array;
  const size_t type = after("descr");
  if (header[type] == '\'')
    array.type = header.substr(type + 1, header.find('\'', type + 1) - type - 1);
  if (array.type != "<f4" && array.type != "<f8" && array.type != "<f2" && array.type != "|u1") {
    throw Failure(path + " holds elements of type '" + array.type + "'; float32, float64, float16 and uint8 are read");
  }
  if (header.compare(after("fortran_order"), 4, "True") == 0) {
    throw Failure(path + " is in Fortran order; write it with numpy.save(path, numpy.ascontiguousarray(array))");
  }
  size_t elements = 1;
  for (size_t at = after("shape"); at < header.size() && header[at] != ')'; ++at) {
    if (header[at] < '0' || header[at] > '9')
      continue;
    size_t digits = 0;
    const int64_t size = std::stoll(header.substr(at, 18), &digits);
    array.shape.push_back(size);
    if (size != 0 && elements > std::numeric_limits<size_t>::max() / 16 / static_cast<size_t>(size))
      throw damaged("its shape");
    elements *= static_cast<size_t>(size);
    at += digits - 1;
  }
  const auto width = static_cast<size_t>(array.type[2] - '0');
  if (bytes.size() - prefix - length != elements * width) {
    throw damaged("its header says " + std::to_string(elements) + " elements of type '" + array.type + "', and " +
                  std::to_string(bytes.size() - prefix - length) + " bytes follow");
  }
  array.data.assign(bytes.begin() + static_cast<std::ptrdiff_t>(prefix + length), bytes.end());
  return array;
}

std::string encode_npy(const std::vector<int64_t>& shape, const float* data) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
  size_t elements = 1;
  for (const int64_t size : shape) {
    header += std::to_string(size) + ",";
    elements *= static_cast<size_t>(size);
  }
  header += "), }";
  header.append(63 - (10 + header.size()) % 64, ' ');  // what follows is aligned to 64 bytes
  header += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(header.size() & 0xff);
  out += static_cast<char>(header.size() >> 8);
  out += header;
  out.append(reinterpret_cast<const char*>(data), elements * sizeof(float));
  return out;
}

}  // namespace tvc_run
