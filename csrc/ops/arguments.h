#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "ops/registry.h"
#include "saccade/error.h"

// What every operation's rules are made of. An error names op, argument, what was got, what was wanted, what to do.
namespace saccade {

inline std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", x);
  return text;
}

inline std::string tuple(const int64_t* x, int n) {
  std::string s = "(";
  for (int i = 0; i < n; ++i) s += (i ? ", " : "") + std::to_string(x[i]);
  return s + (n == 1 ? ",)" : ")");
}

inline std::string shape_text(const TensorView& t) { return tuple(t.shape, t.rank); }

/// A wanted size; negative: any, printed by its name.
struct Axis {
  int64_t size;
  const char* name;
};
using Axes = std::initializer_list<Axis>;

inline std::string axes_text(Axes axes) {
  std::string s = "(";
  for (const Axis* a = axes.begin(); a != axes.end(); ++a)
    s += (a != axes.begin() ? ", " : "") + (a->size < 0 ? std::string(a->name) : std::to_string(a->size));
  return s + (axes.size() == 1 ? ",)" : ")");
}

/// The view at `rank` axes, aligned right, with stride 0 along axes of size 1.
inline void expand(TensorView& t, int rank) {
  const int pad = rank - t.rank;
  for (int i = rank - 1; i >= 0; --i) {
    t.shape[i] = i < pad ? 1 : t.shape[i - pad];
    t.stride[i] = t.shape[i] == 1 ? 0 : t.stride[i - pad];
  }
  t.rank = rank;
}

/// "cpu" or "cuda:0".
inline std::string device_text(const TensorView& t) {
  return t.device == DeviceType::cpu ? "cpu" : "cuda:" + std::to_string(t.device_index);
}

class Arguments {
 protected:
  Arguments(const char* op, const TensorView& query) : op_(op), query_(query) {}

  [[noreturn]] void fail(const char* arg, const std::string& got, const std::string& wanted,
                         const std::string& todo) const {
    throw Error(std::string(op_) + ": " + arg + ": got " + got + ", wanted " + wanted + "; " + todo);
  }

  std::string to_match(const char* name, const TensorView& t) const {
    return std::string(" to match ") + name + " " + shape_text(t);
  }

  void present(const char* arg, const TensorView& t) const {
    if (!t) fail(arg, "no tensor", "one", "pass a TensorView with a dtype");
  }

  /// What holds for every tensor, whatever its meaning.
  void sane(const char* arg, const TensorView& t) const {
    present(arg, t);
    if (t.dtype > DType::boolean)
      fail(arg, "dtype number " + std::to_string(int(t.dtype)), "one of DType's", "set TensorView::dtype");
    if (t.rank < 0 || t.rank > TensorView::kMaxRank)
      fail(arg, "rank " + std::to_string(t.rank), "0 to " + std::to_string(TensorView::kMaxRank),
           "set TensorView::rank");
    int64_t count = 1, reach = 0, bytes = 0, step = 0;
    bool overflow = false;
    for (int i = 0; i < t.rank; ++i) {
      if (t.shape[i] < 0) fail(arg, "shape " + shape_text(t), "sizes >= 0", "fix the shape");
      if (t.stride[i] == INT64_MIN) overflow = true;
      const int64_t size = std::max<int64_t>(t.shape[i], 1);
      overflow |= __builtin_mul_overflow(count, size, &count);
      overflow |= __builtin_mul_overflow(size - 1, t.stride[i] < 0 && !overflow ? -t.stride[i] : t.stride[i], &step);
      overflow |= __builtin_add_overflow(reach, step, &reach);
    }
    overflow |= __builtin_mul_overflow(std::max(count, reach), dtype_size(t.dtype), &bytes);
    if (overflow)
      fail(arg, "shape " + shape_text(t) + " and strides " + tuple(t.stride, t.rank), "fewer than 2^63 bytes",
           "split the problem");
    const TensorView& q = query_;
    if (t.device != q.device || (q.device != DeviceType::cpu && t.device_index != q.device_index))
      fail(arg, "device " + device_text(t), "the query's " + device_text(query_), "move it there");
    if (!t.data && t.numel() > 0)
      fail(arg, "a null pointer for shape " + shape_text(t), "the address of its first element",
           "set TensorView::data");
  }

  void dtype(const char* arg, const TensorView& t, DType wanted, const char* why) const {
    if (t.dtype != wanted)
      fail(arg, std::string("dtype ") + dtype_name(t.dtype), std::string(dtype_name(wanted)) + " " + why,
           std::string("cast it to ") + dtype_name(wanted));
  }

  void shape(const char* arg, const TensorView& t, Axes axes, const std::string& match, const char* todo) const {
    bool ok = t.rank == static_cast<int>(axes.size());
    for (int i = 0; ok && i < t.rank; ++i) ok = axes.begin()[i].size < 0 || axes.begin()[i].size == t.shape[i];
    if (!ok) fail(arg, "shape " + shape_text(t), axes_text(axes) + match, todo);
  }

  void broadcastable(const char* arg, const TensorView& t, Axes axes, const std::string& match) const {
    const int pad = static_cast<int>(axes.size()) - t.rank;
    bool ok = pad >= 0;
    for (int i = 0; ok && i < t.rank; ++i) {
      const int64_t size = axes.begin()[pad + i].size;
      ok = t.shape[i] == 1 || size < 0 || t.shape[i] == size;
    }
    if (!ok)
      fail(arg, "shape " + shape_text(t), "one that broadcasts to " + axes_text(axes) + match,
           "give every axis its size or 1");
  }

  /// The longest sequence, −1 where the host cannot read it.
  int64_t offsets(const char* arg, const TensorView& t, const char* of, int64_t total) const {
    sane(arg, t);
    dtype(arg, t, DType::i32, "for offsets");
    shape(arg, t, {{-1, "B+1"}}, "", "pass the B+1 offsets of B sequences");
    if (t.shape[0] < 1) fail(arg, "shape (0,)", "(B+1,)", "pass the B+1 offsets of B sequences, [0] for none");
    const int64_t n = t.shape[0] - 1;
    const int32_t* entries = static_cast<const int32_t*>(t.data);
    std::vector<int32_t> copy;
    if (t.device != DeviceType::cpu) {
      // Kernels clamp what they read there; looking at it costs a wait for the device.
      const char* check = std::getenv("SACCADE_CHECK");
      if (!check || std::string(check) != "1" || t.stride[0] < 0) return -1;
      copy.resize(n * t.stride[0] + 1);
      if (!copy_to_host(copy.data(), t, static_cast<int64_t>(copy.size()) * 4)) return -1;
      entries = copy.data();
    }
    const auto at = [&](int64_t i) { return static_cast<int64_t>(entries[i * t.stride[0]]); };
    if (at(0) != 0) fail(arg, std::to_string(at(0)) + " as first entry", "0", "start at token 0");
    int64_t longest = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (at(i + 1) < at(i))
        fail(arg, std::to_string(at(i + 1)) + " after " + std::to_string(at(i)) + " at entry " + std::to_string(i + 1),
             "ascending entries", "pass cumulative lengths");
      longest = std::max(longest, at(i + 1) - at(i));
    }
    if (at(n) != total)
      fail(arg, std::to_string(at(n)) + " as last entry", std::to_string(total) + ", the tokens of " + of,
           "cover every token");
    return longest;
  }

  void same(const char* arg, const TensorView& t, const char* of, const TensorView& like) const {
    sane(arg, t);
    dtype(arg, t, like.dtype, (std::string("like ") + of).c_str());
    if (t.rank != like.rank || !std::equal(t.shape, t.shape + t.rank, like.shape))
      fail(arg, "shape " + shape_text(t), shape_text(like) + to_match(of, like),
           std::string("give it the shape of ") + of);
  }

  void gradient(const char* arg, const TensorView& t, const char* of, const TensorView& like) const {
    present(arg, t);
    if (!like) fail(arg, std::string("a tensor without ") + of, "none", std::string("drop it, or pass ") + of);
    same(arg, t, of, like);
    writable(arg, t);
  }

  /// No two elements share memory: by growing stride, each axis steps over all that the ones before it reach.
  void writable(const char* arg, const TensorView& t) const {
    std::pair<int64_t, int64_t> axes[TensorView::kMaxRank];  // stride, size
    int n = 0;
    for (int i = 0; i < t.rank; ++i) {
      if (t.shape[i] == 0) return;
      if (t.shape[i] > 1) axes[n++] = {t.stride[i], t.shape[i]};
    }
    std::sort(axes, axes + n);
    int64_t reach = 0;
    for (int i = 0; i < n; ++i) {
      if (axes[i].first <= reach)
        fail(arg, "strides " + tuple(t.stride, t.rank) + " for shape " + shape_text(t),
             "positive strides under which no two elements share memory", "pass a tensor that is not expanded");
      reach += axes[i].first * (axes[i].second - 1);
    }
  }

  const char* op_;
  const TensorView& query_;  // whose device all others share
};

}  // namespace saccade
