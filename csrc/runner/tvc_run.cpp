// tvc-run: loads a TorchScript file or an AOTInductor package with LibTorch and libtvc_ops, runs it on images, and prints what
// it sees. No Python is in the process.

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bicubic2d.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/upsample_nearest2d.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/api/include/torch/version.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "image.h"
#include "json.h"

namespace tvc_run {
namespace {

constexpr int kFileVersion = 1;
constexpr int kWarmUps = 3;
constexpr const char* kMetadata = "extra/torchvision_customizer.json";

constexpr const char* kHelp = R"(Usage: tvc-run [OPTIONS] MODEL INPUT...

Run an exported model on images, without Python.

MODEL is a TorchScript file or an AOTInductor package (`tvc export --format torchscript` or `aoti`). An INPUT is
  a PNG or JPEG     resized, cropped and normalised as the file's metadata says;
  a .npy array      or a tensor that torch.save wrote: (C, H, W) or (N, C, H, W). One of uint8 is an image, and is
                    pre-processed like one; one of floats goes into the model as it is.
The inputs are run one after another.

Options:
  --top K           How many classes to print for an image. Default: 5.
  --labels FILE     The names of the classes, one a line. Default: those in MODEL.
  --time N          Run each input N more times, and print the median, the fastest and the slowest.
  --threads N       Threads to compute with. Default: torch's.
  --output FILE     Write all outputs, of all inputs, to a float32 .npy file.
  --json            Print one JSON object.
  --version         Print the versions of tvc-run and of torch.
  --help            Print this.

Exit code: 0, 1 where it did not work, 2 for a wrong command line.
)";

struct WrongUsage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- the command line ----

struct Options {
  std::string model;
  std::vector<std::string> inputs;
  int top = 5;
  int runs = 0;
  int threads = 0;
  std::string labels;
  std::string output;
  bool json = false;
};

int positive(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < 1 || value > 1000000) {
    throw WrongUsage(option + " takes a number from 1 on, got '" + text + "'");
  }
  return static_cast<int>(value);
}

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  std::vector<std::string> files;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == arguments.size())
        throw WrongUsage(argument + " takes a value");
      return arguments[++i];
    };
    if (argument == "--top") {
      options.top = positive(argument, value());
    } else if (argument == "--time") {
      options.runs = positive(argument, value());
    } else if (argument == "--threads") {
      options.threads = positive(argument, value());
    } else if (argument == "--labels") {
      options.labels = value();
    } else if (argument == "--output") {
      options.output = value();
    } else if (argument == "--json") {
      options.json = true;
    } else if (argument == "--") {
      files.insert(files.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1, arguments.end());
      break;
    } else if (argument.size() > 1 && argument[0] == '-') {
      throw WrongUsage("there is no option " + argument);
    } else {
      files.push_back(argument);
    }
  }
  if (files.size() < 2)
    throw WrongUsage(files.empty() ? "no MODEL given" : "no INPUT given");
  options.model = files[0];
  options.inputs.assign(files.begin() + 1, files.end());
  return options;
}

// ---- what a file says about itself ----

struct Preprocessing {
  int64_t resize;
  int64_t crop;
  std::string interpolation;
  bool antialias;
  std::vector<double> mean;
  std::vector<double> std;
};

struct Metadata {
  std::string format;          // "torchscript" or "aoti"
  std::vector<int64_t> shape;  // -1 is any size; empty where the file does not say
  at::ScalarType dtype = at::kFloat;
  bool channels_last = false;
  std::vector<std::string> ops;
  std::optional<Preprocessing> preprocessing;
  std::vector<std::string> classes;
};

std::string sizes(c10::IntArrayRef shape) {
  std::string out;
  for (const int64_t size : shape)
    out += (out.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
  return "(" + out + ")";
}

std::vector<double> numbers(const Json& value) {
  std::vector<double> out;
  for (const Json& item : value.array)
    out.push_back(item.number);
  return out;
}

void read_known(const Json& json, Metadata& metadata) {
  static const std::map<std::string, at::ScalarType> dtypes = {
      {"float32", at::kFloat}, {"float64", at::kDouble}, {"float16", at::kHalf}, {"bfloat16", at::kBFloat16}};
  for (const Json& size : json["input_shape"].array) {
    metadata.shape.push_back(size.is(Json::Type::number) ? static_cast<int64_t>(size.number) : -1);
  }
  if (json["input_dtype"].is(Json::Type::string)) {
    const auto dtype = dtypes.find(json["input_dtype"].string);
    if (dtype == dtypes.end())
      throw std::runtime_error("unknown input_dtype '" + json["input_dtype"].string + "'");
    metadata.dtype = dtype->second;
  }
  metadata.channels_last = json["channels_last"].boolean;
  for (const Json& op : json["ops"].array)
    metadata.ops.push_back(op.string);
  for (const Json& label : json["classes"].array)
    metadata.classes.push_back(label.string);
  const Json& steps = json["preprocessing"];
  if (!steps.is(Json::Type::object))
    return;
  const auto pixels = [&](const char* key) {
    const double value = steps[key].number;
    return value >= 1 && value <= 1e5 ? static_cast<int64_t>(value) : 0;
  };
  metadata.preprocessing = Preprocessing{pixels("resize"),           pixels("crop"),         steps["interpolation"].string,
                                         steps["antialias"].boolean, numbers(steps["mean"]), numbers(steps["std"])};
  const Preprocessing& p = *metadata.preprocessing;
  const bool known = p.interpolation == "bilinear" || p.interpolation == "bicubic" || p.interpolation == "nearest";
  if (!known || p.resize < 1 || p.crop < 1 || p.mean.empty() || p.mean.size() != p.std.size()) {
    throw std::runtime_error("its preprocessing is not complete");
  }
}

// The first sentence of an error of torch, without the place in torch's source.
std::string brief(const std::exception& error) {
  const auto* from_torch = dynamic_cast<const c10::Error*>(&error);
  const std::string text = from_torch ? from_torch->what_without_backtrace() : error.what();
  return text.substr(0, std::min(text.find('\n'), text.find(". ")));
}

Metadata read_metadata(const std::string& path) {
  Metadata metadata;
  try {
    caffe2::serialize::PyTorchStreamReader archive(path);
    const std::vector<std::string> records = archive.getAllRecords();
    const auto any = [&](const std::string& prefix) {
      return std::any_of(records.begin(), records.end(), [&](const std::string& r) { return r.rfind(prefix, 0) == 0; });
    };
    if (any("data/aotinductor/")) {
      metadata.format = "aoti";
    } else if (any("models/")) {
      throw Failure(path + " is an exported program, which only Python runs; export it with --format aoti or torchscript");
    } else if (any("constants.pkl")) {
      metadata.format = "torchscript";
    } else {
      throw Failure(path + " is neither a TorchScript file nor an AOTInductor package");
    }
    if (!archive.hasRecord(kMetadata))
      return metadata;
    const auto [data, size] = archive.getRecord(kMetadata);
    const Json json = Json::parse(std::string(static_cast<const char*>(data.get()), size));
    if (json["file_version"].number > kFileVersion) {
      throw Failure(path + " is of version " + json_number(json["file_version"].number) + ", and this tvc-run reads up to " +
                    std::to_string(kFileVersion) + ": update torchvision-customizer and build tvc-run again");
    }
    read_known(json, metadata);
  } catch (const Failure&) {
    throw;
  } catch (const c10::Error& error) {
    throw Failure(path + " is no exported model, or a damaged one: " + brief(error));
  } catch (const std::runtime_error& error) {
    throw Failure("the metadata of " + path + " is damaged: " + error.what());
  }
  return metadata;
}

void check_ops(const Options& options, const Metadata& metadata) {
  for (const std::string& op : metadata.ops) {
    if (!c10::Dispatcher::singleton().findSchema({op, ""})) {
      throw Failure(options.model + " calls " + op + ", which " TVC_LIBRARY " does not have: update torchvision-customizer");
    }
  }
}

// ---- the model ----

using Model = std::function<at::Tensor(const at::Tensor&)>;

at::Tensor first_tensor(const c10::IValue& value, const std::string& path) {
  if (value.isTensor())
    return value.toTensor();
  if (value.isTuple() && !value.toTupleRef().elements().empty())
    return first_tensor(value.toTupleRef().elements()[0], path);
  throw Failure(path + " answers with a " + value.tagKind() + ", and tvc-run shows tensors");
}

Model load(const std::string& path, const Metadata& metadata) {
  try {
    if (metadata.format == "aoti") {
      auto package = std::make_shared<torch::inductor::AOTIModelPackageLoader>(path);
      return [package](const at::Tensor& x) { return package->run({x}).at(0); };
    }
    auto module = std::make_shared<torch::jit::Module>(torch::jit::load(path, at::kCPU));
    module->eval();
    return [module, path](const at::Tensor& x) { return first_tensor(module->forward({x}), path); };
  } catch (const std::exception& error) {
    throw Failure("torch " TORCH_VERSION " cannot load " + path + ": " + brief(error));
  }
}

// ---- inputs ----

// Exactly what torchvision's ImageClassification does to a tensor of uint8: the same kernels, and the resized image is rounded
// to uint8 before it is normalised. `image` is (N, C, H, W).
at::Tensor preprocess(at::Tensor image, const Preprocessing& steps) {
  const int64_t height = image.size(2), width = image.size(3);
  const int64_t shorter = std::min(height, width);
  const auto longer = static_cast<int64_t>(static_cast<double>(steps.resize * std::max(height, width)) / shorter);
  const int64_t target[] = {height <= width ? steps.resize : longer, height <= width ? longer : steps.resize};
  if (target[0] != height || target[1] != width) {
    if (steps.interpolation == "nearest") {
      image = at::upsample_nearest2d(image, target);
    } else {
      const at::Tensor x = image.to(at::kFloat);
      const bool bicubic = steps.interpolation == "bicubic";
      if (steps.antialias) {
        image = bicubic ? at::_upsample_bicubic2d_aa(x, target, false) : at::_upsample_bilinear2d_aa(x, target, false);
      } else {
        image = bicubic ? at::upsample_bicubic2d(x, target, false) : at::upsample_bilinear2d(x, target, false);
      }
      image = (bicubic ? image.clamp(0, 255) : image).round().to(at::kByte);
    }
  }
  const auto padding = [&](int64_t size) { return std::max<int64_t>(steps.crop - size, 0); };
  if (const int64_t down = padding(image.size(2)), right = padding(image.size(3)); down > 0 || right > 0) {
    image = at::constant_pad_nd(image, {right / 2, (right + 1) / 2, down / 2, (down + 1) / 2}, 0);
  }
  // nearbyint takes halves to the even number, as Python's round does.
  const auto start = [&](int64_t size) { return static_cast<int64_t>(std::nearbyint((size - steps.crop) / 2.0)); };
  image = image.narrow(2, start(image.size(2)), steps.crop).narrow(3, start(image.size(3)), steps.crop);
  const auto channels = [](const std::vector<double>& values) { return at::tensor(values, at::kFloat).view({-1, 1, 1}); };
  return image.to(at::kFloat).div(255).sub(channels(steps.mean)).div(channels(steps.std));
}

at::Tensor tensor_of(const Array& array) {
  static const std::map<std::string, at::ScalarType> types = {
      {"<f4", at::kFloat}, {"<f8", at::kDouble}, {"<f2", at::kHalf}, {"|u1", at::kByte}};
  return at::from_blob(const_cast<char*>(array.data.data()), array.shape, at::dtype(types.at(array.type))).clone();
}

at::Tensor tensor_of(const Image& image) {
  const at::Tensor pixels =
      at::from_blob(const_cast<uint8_t*>(image.rgb.data()), {1, image.height, image.width, 3}, at::dtype(at::kByte));
  return pixels.permute({0, 3, 1, 2}).contiguous();
}

at::Tensor saved_tensor(const std::string& path, const std::vector<char>& bytes) {
  c10::IValue value;
  try {
    value = torch::jit::pickle_load(bytes);
  } catch (const c10::Error& error) {
    throw Failure(path + " is no tensor saved by torch, or a damaged one: " + brief(error));
  }
  if (!value.isTensor())
    throw Failure(path + " holds a " + value.tagKind() + "; tvc-run reads one tensor");
  return value.toTensor().cpu();
}

at::Tensor read_tensor(const std::string& path) {
  const std::vector<char> bytes = read_file(path);
  switch (kind_of(bytes)) {
    case Kind::png:
      return tensor_of(decode_png(path, bytes));
    case Kind::jpeg:
      return tensor_of(decode_jpeg(path, bytes));
    case Kind::npy:
      return tensor_of(decode_npy(path, bytes));
    case Kind::zip:
      return saved_tensor(path, bytes);
    case Kind::unknown:
      break;
  }
  throw Failure(path + " is no PNG or JPEG, no .npy array and no tensor saved by torch");
}

at::Tensor read_input(const std::string& path, const Options& options, const Metadata& metadata) {
  at::Tensor x = read_tensor(path);
  // Of three or four dimensions, unless the file was exported for something else than images.
  const auto dimensions = static_cast<int64_t>(metadata.shape.empty() ? 4 : metadata.shape.size());
  if (x.dim() == dimensions - 1)
    x = x.unsqueeze(0);
  if (x.dim() != dimensions || x.size(0) == 0) {
    const std::string takes =
        metadata.shape.empty() ? "a model of images takes (N, C, H, W)" : options.model + " takes " + sizes(metadata.shape);
    throw Failure(path + " is " + sizes(x.sizes()) + ", and " + takes);
  }
  if (x.scalar_type() == at::kByte) {
    if (!metadata.preprocessing) {
      throw Failure(options.model + " does not say how images are pre-processed: give a tensor of floats instead of " + path +
                    ", or export the model with its pre-processing");
    }
    const size_t channels = metadata.preprocessing->mean.size();
    if (x.dim() != 4 || x.size(1) != static_cast<int64_t>(channels)) {
      throw Failure(path + " has " + std::to_string(x.size(1)) + " channels, and " + options.model + " takes images of " +
                    std::to_string(channels));
    }
    if (x.size(2) == 0 || x.size(3) == 0)
      throw Failure(path + " is an image without pixels");
    x = preprocess(x, *metadata.preprocessing);
  } else if (!x.is_floating_point()) {
    throw Failure(path + " is of type " + c10::toString(x.scalar_type()) + "; it must be uint8 (an image) or floats");
  }
  const auto fits = [&](size_t i) { return metadata.shape[i] < 0 || metadata.shape[i] == x.size(static_cast<int64_t>(i)); };
  bool fit = true;
  for (size_t i = 0; fit && i < metadata.shape.size(); ++i)
    fit = fits(i);
  if (!fit) {
    throw Failure(path + " is " + sizes(x.sizes()) + ", and " + options.model + " takes " + sizes(metadata.shape));
  }
  return x.to(metadata.dtype)
      .contiguous(metadata.channels_last && x.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

std::vector<std::string> read_labels(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> labels;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.back() == '\r')
      line.pop_back();
    labels.push_back(line);
  }
  if (labels.empty())
    throw Failure("cannot read labels from " + path + ": it is not there, or empty");
  return labels;
}

// ---- running ----

struct Guess {
  int64_t index;
  double score;
  double probability;
};

struct Result {
  std::string input;
  at::Tensor output;                    // float32, on the CPU
  std::vector<std::vector<Guess>> top;  // for each image; empty where the output is not (N, classes)
  std::vector<double> milliseconds;     // an image, sorted
};

at::Tensor run(const Model& model, const at::Tensor& x, const std::string& input, const std::string& path) {
  try {
    return model(x);
  } catch (const Failure&) {
    throw;
  } catch (const std::exception& error) {
    // The last line of an error from TorchScript is the cause; what is before it is the place in the model.
    const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
    std::istringstream lines(torch_error ? torch_error->what_without_backtrace() : error.what());
    std::string reason;
    for (std::string line; std::getline(lines, line);) {
      if (line.find_first_not_of(" \t") != std::string::npos)
        reason = line;
    }
    throw Failure(path + " does not run on " + input + ", " + sizes(x.sizes()) + ": " + reason);
  }
}

std::vector<std::vector<Guess>> best(const at::Tensor& output, int count) {
  std::vector<std::vector<Guess>> all;
  if (output.dim() != 2)
    return all;
  const at::Tensor probabilities = at::softmax(output.to(at::kDouble), 1);
  const auto [scores, indices] = output.topk(std::min<int64_t>(count, output.size(1)), 1);
  for (int64_t n = 0; n < output.size(0); ++n) {
    std::vector<Guess> guesses;
    for (int64_t k = 0; k < indices.size(1); ++k) {
      const int64_t index = indices[n][k].item<int64_t>();
      guesses.push_back({index, scores[n][k].item<double>(), probabilities[n][index].item<double>()});
    }
    all.push_back(std::move(guesses));
  }
  return all;
}

Result classify(const std::string& input, const Options& options, const Metadata& metadata, const Model& model) {
  const at::Tensor x = read_input(input, options, metadata);
  const at::Tensor output = run(model, x, input, options.model).to(at::kCPU, at::kFloat).contiguous();
  Result result{input, output, best(output, options.top), {}};
  for (int i = 1; options.runs > 0 && i < kWarmUps; ++i)
    run(model, x, input, options.model);
  for (int i = 0; i < options.runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run(model, x, input, options.model);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
    result.milliseconds.push_back(taken.count() / static_cast<double>(x.size(0)));
  }
  std::sort(result.milliseconds.begin(), result.milliseconds.end());
  return result;
}

double median(const std::vector<double>& sorted) {
  const size_t half = sorted.size() / 2;
  return sorted.size() % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// ---- what is printed and written ----

void print_text(const std::vector<Result>& results, const std::vector<std::string>& labels) {
  for (const Result& result : results) {
    for (size_t n = 0; n < result.top.size(); ++n) {
      std::cout << result.input << (result.top.size() > 1 ? "[" + std::to_string(n) + "]" : "") << "\n";
      for (const Guess& guess : result.top[n]) {
        char line[48];
        std::snprintf(line, sizeof line, "  %6.2f %%  %5lld", guess.probability * 100, static_cast<long long>(guess.index));
        std::cout << line << (labels.empty() ? "" : "  " + labels[static_cast<size_t>(guess.index)]) << "\n";
      }
    }
    if (result.top.empty())
      std::cout << result.input << "\n  output " << sizes(result.output.sizes()) << ", no classes\n";
    if (!result.milliseconds.empty()) {
      const double middle = median(result.milliseconds);
      char line[160];
      std::snprintf(line, sizeof line, "  %.3f ms an image (median of %zu, %.3f to %.3f), %.1f images/s, threads: %d\n", middle,
                    result.milliseconds.size(), result.milliseconds.front(), result.milliseconds.back(), 1000 / middle,
                    at::get_num_threads());
      std::cout << line;
    }
  }
}

template <class Items, class Print>
std::string json_list(const Items& items, Print print) {
  std::string out = "[";
  for (const auto& item : items)
    out += (out.size() > 1 ? ", " : "") + print(item);
  return out + "]";
}

void print_json(const Options& options, const Metadata& metadata, const std::vector<Result>& results,
                const std::vector<std::string>& labels) {
  const auto guess = [&](const Guess& g) {
    return "{\"class\": " + std::to_string(g.index) +
           ", \"label\": " + (labels.empty() ? "null" : json_quote(labels[static_cast<size_t>(g.index)])) +
           ", \"score\": " + json_number(g.score) + ", \"probability\": " + json_number(g.probability) + "}";
  };
  const auto result = [&](const Result& r) {
    std::string out = "{\"input\": " + json_quote(r.input) +
                      ", \"shape\": " + json_list(r.output.sizes(), [](int64_t size) { return std::to_string(size); }) +
                      ", \"top\": " + json_list(r.top, [&](const auto& image) { return json_list(image, guess); });
    if (!r.milliseconds.empty()) {
      out += ", \"runs\": " + std::to_string(r.milliseconds.size()) +
             ", \"median_ms\": " + json_number(median(r.milliseconds)) +
             ", \"fastest_ms\": " + json_number(r.milliseconds.front()) +
             ", \"slowest_ms\": " + json_number(r.milliseconds.back());
    }
    return out + "}";
  };
  std::cout << "{\"model\": " << json_quote(options.model) << ", \"format\": " << json_quote(metadata.format)
            << ", \"torch\": " << json_quote(TORCH_VERSION) << ", \"ops\": " << json_list(metadata.ops, json_quote)
            << ", \"threads\": " << at::get_num_threads() << ", \"results\": " << json_list(results, result) << "}\n";
}

void write_outputs(const std::string& path, const std::vector<Result>& results) {
  std::vector<int64_t> shape = results[0].output.sizes().vec();
  std::vector<float> values;
  shape[0] = 0;
  for (const Result& result : results) {
    if (result.output.dim() == 0 || result.output.sizes().slice(1) != results[0].output.sizes().slice(1)) {
      throw Failure("--output: the answers for " + results[0].input + " and " + result.input + " are of different shapes");
    }
    shape[0] += result.output.size(0);
    const float* data = result.output.const_data_ptr<float>();
    values.insert(values.end(), data, data + result.output.numel());
  }
  const std::string bytes = encode_npy(shape, values.data());
  // Beside its place, so that nobody finds half of it there.
  const std::string draft = path + ".tmp";
  std::ofstream file(draft, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file || std::rename(draft.c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(draft.c_str());
    throw Failure("cannot write " + path + ": " + reason);
  }
}

void tvc_run(const Options& options) {
  if (options.threads > 0)
    at::set_num_threads(options.threads);
  if (std::filesystem::is_directory(options.model))
    throw Failure(options.model + " is a folder");
  if (!std::ifstream(options.model))
    throw Failure("cannot read " + options.model + ": " + std::strerror(errno));
  const Metadata metadata = read_metadata(options.model);
  check_ops(options, metadata);
  const std::vector<std::string> labels = options.labels.empty() ? metadata.classes : read_labels(options.labels);
  const c10::InferenceMode inference;
  const Model model = load(options.model, metadata);
  std::vector<Result> results;
  for (const std::string& input : options.inputs) {
    results.push_back(classify(input, options, metadata, model));
    const Result& last = results.back();
    if (!labels.empty() && !last.top.empty() && static_cast<int64_t>(labels.size()) != last.output.size(1)) {
      throw Failure((options.labels.empty() ? options.model : options.labels) + " names " + std::to_string(labels.size()) +
                    " classes, and the model answers for " + std::to_string(last.output.size(1)));
    }
  }
  if (!options.output.empty())
    write_outputs(options.output, results);
  if (options.json) {
    print_json(options, metadata, results, labels);
  } else {
    print_text(results, labels);
  }
}

}  // namespace
}  // namespace tvc_run

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto given = [&](const char* option) {
    return std::find(arguments.begin(), arguments.end(), option) != arguments.end();
  };
  if (given("--help")) {
    std::cout << tvc_run::kHelp;
    return 0;
  }
  if (given("--version")) {
    std::cout << "tvc-run " TVC_VERSION ", torch " TORCH_VERSION "\n";
    return 0;
  }
  try {
    tvc_run::tvc_run(tvc_run::parse(arguments));
    return 0;
  } catch (const tvc_run::WrongUsage& error) {
    std::cerr << "tvc-run: " << error.what() << "; see tvc-run --help\n";
    return 2;
  } catch (const std::bad_alloc&) {
    std::cerr << "tvc-run: there is not enough memory for this\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "tvc-run: " << error.what() << "\n";
    return 1;
  }
}
