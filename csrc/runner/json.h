// As much JSON as the metadata of an exported file needs.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace tvc_run {

struct Json {
  enum class Type { null, boolean, number, string, array, object };

  Type type = Type::null;
  bool boolean = false;
  double number = 0;
  std::string string;
  std::vector<Json> array;
  std::map<std::string, Json> object;

  bool is(Type wanted) const {
    return type == wanted;
  }

  // The value of a key; null where there is none, and of what is no object.
  const Json& operator[](const std::string& key) const {
    static const Json nothing;
    const auto found = object.find(key);
    return found == object.end() ? nothing : found->second;
  }

  static Json parse(const std::string& text);
};

// Throws std::runtime_error with the position of what it did not expect.
class JsonParser {
 public:
  explicit JsonParser(const std::string& text) : text_(text) {}

  Json whole() {
    Json value = next(0);
    skip_space();
    if (at_ != text_.size())
      fail();
    return value;
  }

 private:
  [[noreturn]] void fail() const {
    throw std::runtime_error("no JSON at character " + std::to_string(at_));
  }

  void skip_space() {
    at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size());
  }

  bool take(const std::string& token) {
    skip_space();
    if (text_.compare(at_, token.size(), token) != 0)
      return false;
    at_ += token.size();
    return true;
  }

  void expect(const std::string& token) {
    if (!take(token))
      fail();
  }

  Json next(int depth) {
    if (depth > 64)
      fail();
    Json value;
    if (take("null"))
      return value;
    if (take("true") || take("false")) {
      value.type = Json::Type::boolean;
      value.boolean = text_[at_ - 2] == 'u';
    } else if (take("\"")) {
      value.type = Json::Type::string;
      value.string = rest_of_string();
    } else if (take("[")) {
      value.type = Json::Type::array;
      for (bool more = !take("]"); more; more = !take("]")) {
        if (!value.array.empty())
          expect(",");
        value.array.push_back(next(depth + 1));
      }
    } else if (take("{")) {
      value.type = Json::Type::object;
      for (bool more = !take("}"); more; more = !take("}")) {
        if (!value.object.empty())
          expect(",");
        expect("\"");
        const std::string key = rest_of_string();
        expect(":");
        value.object[key] = next(depth + 1);
      }
    } else {
      const char* begin = text_.c_str() + at_;
      char* end = nullptr;
      value.type = Json::Type::number;
      value.number = std::strtod(begin, &end);
      if (end == begin)
        fail();
      at_ += static_cast<size_t>(end - begin);
    }
    return value;
  }

  uint32_t hex4() {
    if (text_.size() - at_ < 4)
      fail();
    char* end = nullptr;
    const std::string digits = text_.substr(at_, 4);
    const auto code = static_cast<uint32_t>(std::strtoul(digits.c_str(), &end, 16));
    if (end != digits.c_str() + 4)
      fail();
    at_ += 4;
    return code;
  }

  std::string rest_of_string() {
    std::string out;
    while (at_ < text_.size()) {
      char c = text_[at_++];
      if (c == '"')
        return out;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ == text_.size())
        break;
      c = text_[at_++];
      const std::string escapes = "\"\\/bfnrt";
      if (const size_t which = escapes.find(c); which != std::string::npos) {
        out += "\"\\/\b\f\n\r\t"[which];
        continue;
      }
      if (c != 'u')
        fail();
      uint32_t code = hex4();
      if (code >= 0xd800 && code < 0xdc00) {  // the first half of a character beyond 16 bits
        if (text_.compare(at_, 2, "\\u") != 0)
          fail();
        at_ += 2;
        code = 0x10000 + ((code - 0xd800) << 10) + ((hex4() - 0xdc00) & 0x3ff);
      }
      append_utf8(out, code);
    }
    fail();
  }

  static void append_utf8(std::string& out, uint32_t code) {
    const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3f)); };
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xc0 | (code >> 6));
      tail(0);
    } else if (code < 0x10000) {
      out += static_cast<char>(0xe0 | (code >> 12));
      tail(6);
      tail(0);
    } else {
      out += static_cast<char>(0xf0 | (code >> 18));
      tail(12);
      tail(6);
      tail(0);
    }
  }

  const std::string& text_;
  size_t at_ = 0;
};

inline Json Json::parse(const std::string& text) {
  return JsonParser(text).whole();
}

inline std::string json_quote(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", c);
      out += code;
    } else {
      out += c;
    }
  }
  return out + '"';
}

// JSON has no infinity and no NaN: they become null.
inline std::string json_number(double value) {
  if (!std::isfinite(value))
    return "null";
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", value);
  return digits;
}

}  // namespace tvc_run
