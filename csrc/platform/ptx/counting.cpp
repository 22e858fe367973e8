#include "platform/ptx/counting.h"

#include <type_traits>

namespace sslkern::ptx {
namespace {

// Objects and arrays, with what separates their members.
class Json {
 public:
  template <class F>
  void object(const F& members) {
    enclosed('{', '}', members);
  }
  template <class F>
  void array(const F& elements) {
    enclosed('[', ']', elements);
  }

  Json& key(const std::string& name) {
    separate();
    quote(name);
    text_ += ": ";
    begun_ = false;
    return *this;
  }
  void value(std::uint64_t number) { text_ += std::to_string(number); }
  void value(const std::string& text) { quote(text); }
  void element() { separate(); }

  template <class T>
  void member(const char* name, const T& what) {
    key(name).value(what);
    begun_ = true;
  }

  std::string text() const { return text_; }

 private:
  template <class F>
  void enclosed(char open, char close, const F& f) {
    text_ += open;
    begun_ = false;
    f();
    text_ += close;
    begun_ = true;
  }

  void separate() {
    if (begun_) text_ += ", ";
    begun_ = true;
  }

  void quote(const std::string& text) {
    text_ += '"';
    for (const char c : text) {
      if (c == '"' || c == '\\') text_ += '\\';
      text_ += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    text_ += '"';
  }

  std::string text_;
  bool begun_ = false;  // something stands before in what is open
};

void members(Json& json, const Issued& issued) {
  json.member("warps", issued.warps);
  json.member("threads", issued.threads);
}

void members(Json& json, const GlobalTraffic& traffic) {
  json.member("requests", traffic.requests);
  json.member("sectors", traffic.sectors);
  json.member("least_sectors", traffic.least_sectors);
  json.member("bytes", traffic.bytes);
  json.member("lane_bytes", traffic.lane_bytes);
}

void members(Json& json, const SharedTraffic& traffic) {
  json.member("requests", traffic.requests);
  json.member("wavefronts", traffic.wavefronts);
  json.member("least_wavefronts", traffic.least_wavefronts);
  json.member("conflicts", traffic.conflicts());
  json.member("lane_bytes", traffic.lane_bytes);
}

template <class T>
void object(Json& json, const char* name, const T& what) {
  json.key(name).object([&] { members(json, what); });
}

template <class T>
void map(Json& json, const char* name, const std::map<std::string, T>& entries) {
  json.key(name).object([&] {
    for (const auto& [key, what] : entries) {
      if constexpr (std::is_integral_v<T>) {
        json.member(key.c_str(), what);
      } else {
        object(json, key.c_str(), what);
      }
    }
  });
}

void line(Json& json, const LineCounts& counts) {
  json.member("line", std::uint64_t(counts.line));
  json.member("text", counts.text);
  json.member("class", counts.of);
  json.member("source", counts.source);
  json.member("caller", counts.caller);
  members(json, counts.issued);
  if (counts.global.requests > 0) object(json, "global", counts.global);
  if (counts.shared.requests > 0) object(json, "shared", counts.shared);
}

bool is_of_interest(const LineCounts& counts) {
  const bool memory = counts.global.requests > 0 || counts.shared.requests > 0;
  return memory || (counts.of == "matrix" && counts.issued.warps > 0);
}

void kernel(Json& json, const KernelCounts& counts) {
  json.member("launches", counts.launches);
  json.member("blocks", counts.blocks);
  json.member("warps", counts.warps);
  json.member("threads", counts.threads);
  json.member("static_shared_bytes", counts.static_shared_bytes);
  json.member("dynamic_shared_bytes", counts.dynamic_shared_bytes);
  json.member("distinct_sectors_read", counts.distinct_sectors_read);
  json.member("distinct_sectors_written", counts.distinct_sectors_written);
  json.member("local_bytes", counts.local_bytes);
  map(json, "classes", counts.classes);
  map(json, "instructions", counts.instructions);
  map(json, "flop", counts.flop);
  map(json, "global", counts.global);
  map(json, "shared", counts.shared);
  json.key("lines").array([&] {
    for (const LineCounts& counted : counts.lines) {
      if (!is_of_interest(counted)) continue;
      json.element();
      json.object([&] { line(json, counted); });
    }
  });
}

}  // namespace

Issued& Issued::operator+=(const Issued& other) {
  warps += other.warps;
  threads += other.threads;
  return *this;
}

GlobalTraffic& GlobalTraffic::operator+=(const GlobalTraffic& other) {
  requests += other.requests;
  sectors += other.sectors;
  least_sectors += other.least_sectors;
  bytes += other.bytes;
  lane_bytes += other.lane_bytes;
  return *this;
}

double GlobalTraffic::efficiency() const {
  return sectors == 0 ? 1 : double(bytes) / (32 * double(sectors));
}

SharedTraffic& SharedTraffic::operator+=(const SharedTraffic& other) {
  requests += other.requests;
  wavefronts += other.wavefronts;
  least_wavefronts += other.least_wavefronts;
  lane_bytes += other.lane_bytes;
  return *this;
}

std::string to_json(const std::map<std::string, KernelCounts>& counts) {
  Json json;
  json.object([&] {
    for (const auto& [name, counted] : counts) {
      json.key(name).object([&] { kernel(json, counted); });
    }
  });
  return json.text();
}

}  // namespace sslkern::ptx
