// Every query meets only K rows of the table, so there is nothing to pack and nothing to reuse: the
// rows are read once, where they lie, as fast as they come. Steps of several rows hide the latency
// of the multiply-adds, and rows are fetched some steps ahead, because no prefetcher of the
// hardware can guess where they are.
//
// grad_table gathers instead of scattering: the samples are sorted by row (a counting sort, in the
// order of the samples within a row), and each row is summed by one thread.
#include "contract/sampled_logits.h"

#include <cstring>
#include <utility>

#include "cpu/arena.h"
#include "cpu/dtype.h"
#include "cpu/panels.h"
#include "cpu/schedule.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

constexpr int kStep = 8;                       // rows at once
constexpr std::int64_t kSamplesPerTask = 256;  // of one query, so that few queries share threads

// Rows on their way, and the bytes fetched of each: 16 KiB, half of a small L1. What follows in a
// longer row is a stream, which the hardware fetches itself. Measured on a table larger than the
// cache (51 MB), one thread: without more than twice as long, with 8 rows 1.2 times.
constexpr std::int64_t kAhead = 16;
constexpr std::int64_t kPrefetchBytes = 1024;

template <class T>
SSLKERN_INLINE Vec<T> load_as(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

typedef std::uint16_t HalfVec __attribute__((vector_size(kVectorBytes / 2)));
typedef std::uint32_t BitsVec __attribute__((vector_size(kVectorBytes)));

SSLKERN_INLINE BitsVec load_bits(const void* p) {
  HalfVec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return __builtin_convertvector(v, BitsVec);
}

template <class T>
SSLKERN_INLINE Vec<T> load_as(const BFloat16* p) {
  return reinterpret_cast<Vec<T>>(load_bits(p) << 16);
}

// As math::to_float(Float16).
template <class T>
SSLKERN_INLINE Vec<T> load_as(const Float16* p) {
  const BitsVec bits = load_bits(p), magnitude = (bits & 0x7fffu) << 13;
  const Vec<T> scaled = reinterpret_cast<Vec<T>>(magnitude) * splat<T>(0x1p112f);
  const BitsVec special = magnitude >= 0x0f800000u ? BitsVec{} + 0x7f800000u : BitsVec{};
  return reinterpret_cast<Vec<T>>(reinterpret_cast<BitsVec>(scaled) | special |
                                  (bits & 0x8000u) << 16);
}

// A row as vectors: whole ones, then its last elements in the last lanes of one more, where a load
// that ends with the row puts them.
template <class T>
struct Shape {
  static constexpr int W = kWidth<T>;
  std::int64_t dims, whole;
  int rest;

  explicit Shape(std::int64_t dims) : dims(dims), whole(dims / W * W), rest(int(dims % W)) {}

  std::int64_t padded() const { return round_up(dims, W); }

  template <class E>
  SSLKERN_INLINE Vec<T> load_rest(const E* row) const {
    if (whole == 0) return load_short(row);
    const Vec<T> v = load_as<T>(row + dims - W);
    return lane_index<T>() >= typename Simd<T>::Int(W - rest) ? v : Vec<T>{};
  }

  // A function of its own, so that the callers keep their sums in registers.
  template <class E>
  __attribute__((noinline)) Vec<T> load_short(const E* row) const {
    alignas(kVectorBytes) T lanes[W] = {};
    for (int c = 0; c < rest; ++c) lanes[W - rest + c] = T(math::to_float(row[c]));
    return load(lanes);
  }

  template <class E>
  SSLKERN_INLINE void unpack(const E* row, T* to) const {
    for (std::int64_t d = 0; d < whole; d += W) store(to + d, load_as<T>(row + d));
    if (rest != 0) store(to + whole, load_rest(row));
  }

  template <class E>
  SSLKERN_INLINE void write(const T* from, E* row) const {
    for (std::int64_t d = 0; d < whole; ++d) row[d] = math::Rounded<E>::from(from[d]);
    const T* last = from + padded() - rest;
    for (int c = 0; c < rest; ++c) row[whole + c] = math::Rounded<E>::from(last[c]);
  }
};

// Calls f<R>(k) for steps of R rows that cover 0 <= k < count.
template <int R, class F>
SSLKERN_INLINE std::int64_t in_steps_of(std::int64_t k, std::int64_t count, const F& f) {
  for (; k + R <= count; k += R) f.template operator()<R>(k);
  return k;
}

template <class F>
SSLKERN_INLINE void in_steps(std::int64_t count, const F& f) {
  std::int64_t k = in_steps_of<kStep>(0, count, f);
  k = in_steps_of<4>(k, count, f);
  k = in_steps_of<2>(k, count, f);
  in_steps_of<1>(k, count, f);
}

// How many of `count` pieces of work a thread draws at a time.
std::int64_t draw(std::int64_t count, int threads) {
  return smaller(32, ceil_div(count, 16 * threads));
}

template <class E>
SSLKERN_INLINE void prefetch_row(const E* row, std::int64_t dims) {
  const char* line = reinterpret_cast<const char*>(row);
  const char* end = line + smaller(dims * std::int64_t(sizeof(E)), kPrefetchBytes);
  for (; line < end; line += kCacheLine) __builtin_prefetch(line);
}

template <class T, int kHalf, std::size_t... I>
SSLKERN_INLINE Vec<T> add_other_half(Vec<T> v, std::index_sequence<I...>) {
  return v + __builtin_shufflevector(v, v, ((int(I) + kHalf) % kWidth<T>)...);
}

// Lanes [0, R) of a vector in which R sums alternate: adds up their parts.
template <class T, int R, int kHalf = kWidth<T> / 2>
SSLKERN_INLINE Vec<T> add_parts(Vec<T> v) {
  if constexpr (kHalf < R) {
    return v;
  } else {
    using Lanes = std::make_index_sequence<kWidth<T>>;
    return add_parts<T, R, kHalf / 2>(add_other_half<T, kHalf>(v, Lanes{}));
  }
}

// Puts kLive vectors into the first: each level halves the parts of a sum and puts two vectors into
// one, so that many sums cost little more than one.
template <class T, int kLive>
SSLKERN_INLINE void alternate(Vec<T>* v) {
  if constexpr (kLive > 1) {
    using Lanes = std::make_index_sequence<kWidth<T>>;
    constexpr int kHalf = kLive / 2;
#pragma GCC unroll 4
    for (int i = 0; i < kHalf; ++i) {
      v[i] = detail::interleave<T>(v[i], v[i + kHalf], Lanes{}, std::integral_constant<int, 0>{}) +
             detail::interleave<T>(v[i], v[i + kHalf], Lanes{}, std::integral_constant<int, 1>{});
    }
    alternate<T, kHalf>(v);
  }
}

// out[r] = horizontal_sum(v[r]), bit for bit.
template <class T, int R>
SSLKERN_INLINE void horizontal_sums(Vec<T>* v, T* out) {
  if constexpr (R > kWidth<T>) {
    horizontal_sums<T, R / 2>(v, out);
    horizontal_sums<T, R / 2>(v + R / 2, out + R / 2);
  } else {
    alternate<T, R>(v);
    const Vec<T> sums = add_parts<T, R>(v[0]);
    __builtin_memcpy(out, &sums, R * sizeof(T));
  }
}

// out[r] = x . rows[r], x unpacked. Whatever R, a sum is formed in the same order.
template <class T, class E, int R>
__attribute__((noinline)) void dots(Shape<T> shape, const T* x, const E* const* rows, T* out) {
  Vec<T> sum[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r] = Vec<T>{};
  for (std::int64_t d = 0; d < shape.whole; d += kWidth<T>) {
    const Vec<T> v = load(x + d);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) multiply_add<T>(sum[r], v, load_as<T>(rows[r] + d));
  }
  if (shape.rest != 0) {
    const Vec<T> v = load(x + shape.whole);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) multiply_add<T>(sum[r], v, shape.load_rest(rows[r]));
  }
  horizontal_sums<T, R>(sum, out);
}

// sum += sum_r weight[r] rows[r]; the step is summed before it joins, so that an addition rounds at
// the size of the total only once a step.
template <class T, class E, int R>
__attribute__((noinline)) void add_rows(Shape<T> shape, const E* const* rows, const T* weight,
                                        T* sum) {
  Vec<T> factor[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) factor[r] = splat(weight[r]);
  for (std::int64_t d = 0; d < shape.whole; d += kWidth<T>) {
    Vec<T> part = factor[0] * load_as<T>(rows[0] + d);
#pragma GCC unroll 8
    for (int r = 1; r < R; ++r) multiply_add<T>(part, factor[r], load_as<T>(rows[r] + d));
    store(sum + d, load(sum + d) + part);
  }
  if (shape.rest != 0) {
    Vec<T> part = factor[0] * shape.load_rest(rows[0]);
#pragma GCC unroll 8
    for (int r = 1; r < R; ++r) multiply_add<T>(part, factor[r], shape.load_rest(rows[r]));
    store(sum + shape.whole, load(sum + shape.whole) + part);
  }
}

// The samples as they come: rows of the table.
template <class T, class E>
struct Samples {
  const SampledLogitsInput& in;
  const T* weights;  // (N, K); null where rows are all that is asked for

  const E* row(std::int64_t sample) const {
    return static_cast<const E*>(in.table) + in.index[sample] * in.stride_table;
  }
  T weight(std::int64_t sample) const { return weights[sample]; }
  void prefetch(std::int64_t sample) const { prefetch_row(row(sample), in.D); }
};

// The samples in the order of the table's rows: their queries.
template <class T, class E>
struct SortedSamples {
  const SampledLogitsInput& in;
  const T* weights;           // (N, K)
  const std::int64_t* order;  // (N K) samples

  const E* row(std::int64_t place) const {
    return static_cast<const E*>(in.query) + order[place] / in.K * in.stride_query;
  }
  T weight(std::int64_t place) const { return weights[order[place]]; }
  void prefetch(std::int64_t place) const {
    prefetch_row(row(place), in.D);
    __builtin_prefetch(weights + order[place]);
  }
};

// rows[0 .. R) of the places that begin at `first`. Those kAhead further are sent for.
template <class E, int R, class Source>
SSLKERN_INLINE void find_rows(const Source& source, std::int64_t first, const E** rows) {
  for (int r = 0; r < R; ++r) rows[r] = source.row(first + r);
  const std::int64_t end = smaller(first + kAhead + R, source.in.N * source.in.K);
  for (std::int64_t p = first + kAhead; p < end; ++p) source.prefetch(p);
}

// sum = sum over the places first <= p < first + count of their weight times their row.
template <class T, class E, class Source>
SSLKERN_INLINE void sum_rows(const Shape<T>& shape, const Source& source, std::int64_t first,
                             std::int64_t count, T* sum) {
  std::memset(sum, 0, std::size_t(shape.padded()) * sizeof(T));
  in_steps(count, [&]<int R>(std::int64_t k) {
    const E* rows[R];
    T weight[R];
    find_rows<E, R>(source, first + k, rows);
    for (int r = 0; r < R; ++r) weight[r] = source.weight(first + k + r);
    add_rows<T, E, R>(shape, rows, weight, sum);
  });
}

// One unpacked row for each thread.
template <class T>
struct RowBuffers {
  T* rows;
  std::int64_t size;

  static RowBuffers take(Arena& arena, std::int64_t dims, int threads) {
    const std::int64_t size = round_up(dims, 2 * kCacheLine);
    return {arena.take<T>(threads * size), size};
  }
  T* own() const { return rows + thread_number() * size; }
};

template <class T, class E>
void forward(const SampledLogitsFwd& p) {
  const SampledLogitsInput& in = p.in;
  Arena arena(p.workspace);
  const auto buffers = RowBuffers<T>::take(arena, in.D, p.threads);
  const Shape<T> shape(in.D);
  const Samples<T, E> samples{in, nullptr};
  const std::int64_t tasks = ceil_div(in.K, kSamplesPerTask);  // of a query
  const std::int64_t chunk = draw(in.N * tasks, p.threads);
#pragma omp parallel for num_threads(p.threads) schedule(dynamic, chunk)
  for (std::int64_t task = 0; task < in.N * tasks; ++task) {
    const std::int64_t i = task / tasks, begin = task % tasks * kSamplesPerTask;
    const std::int64_t first = i * in.K + begin;
    T* query = buffers.own();
    shape.unpack(static_cast<const E*>(in.query) + i * in.stride_query, query);
    in_steps(smaller(kSamplesPerTask, in.K - begin), [&]<int R>(std::int64_t k) {
      const E* rows[R];
      find_rows<E, R>(samples, first + k, rows);
      dots<T, E, R>(shape, query, rows, static_cast<T*>(p.logits) + first + k);
    });
  }
}

template <class T>
struct Backward {
  RowBuffers<T> buffers;
  std::int64_t* end;    // (V) where the samples of row v end in `order`, and those of v + 1 begin
  std::int64_t* order;  // (N K) samples by row of the table

  static Backward take(Arena& arena, const SampledLogitsBwd& p) {
    const bool table = p.grad_table != nullptr;
    return {RowBuffers<T>::take(arena, p.in.D, p.threads),
            arena.take<std::int64_t>(table ? p.in.V : 0),
            arena.take<std::int64_t>(table ? p.in.N * p.in.K : 0)};
  }
};

// Adds one to the counter of each sample's row among the rows [first, last), and calls
// f(sample, its value before).
template <class F>
SSLKERN_INLINE void count_samples(const SampledLogitsInput& in, std::int64_t first,
                                  std::int64_t last, std::int64_t* counter, const F& f) {
  for (std::int64_t s = 0; s < in.N * in.K; ++s) {
    const std::int64_t v = in.index[s];
    if (v >= first && v < last) f(s, counter[v]++);
  }
}

// Fills `end` and `order`. Each part looks at all samples and keeps those of its own rows, so that
// the parts share no counter.
template <class T>
void sort_samples(const SampledLogitsInput& in, const Backward<T>& b, int threads) {
  constexpr std::int64_t kSamplesPerPart = std::int64_t(1) << 18;  // fewer are not worth a barrier
  const int parts = int(smaller(threads, ceil_div(in.N * in.K, kSamplesPerPart)));
  const auto first_row = [&](int part) { return in.V * part / parts; };
#pragma omp parallel num_threads(parts)
  {
#pragma omp for schedule(static)
    for (int part = 0; part < parts; ++part) {
      const std::int64_t first = first_row(part), last = first_row(part + 1);
      for (std::int64_t v = first; v < last; ++v) b.end[v] = 0;
      count_samples(in, first, last, b.end, [](std::int64_t, std::int64_t) {});
    }
#pragma omp single
    {
      std::int64_t sum = 0;
      for (std::int64_t v = 0; v < in.V; ++v) {
        const std::int64_t count = b.end[v];
        b.end[v] = sum;  // its beginning; the end once its samples are placed
        sum += count;
      }
    }
#pragma omp for schedule(static)
    for (int part = 0; part < parts; ++part) {
      count_samples(in, first_row(part), first_row(part + 1), b.end,
                    [&](std::int64_t s, std::int64_t place) { b.order[place] = s; });
    }
  }
}

template <class T, class E>
void backward(const SampledLogitsBwd& p) {
  const SampledLogitsInput& in = p.in;
  Arena arena(p.workspace);
  const auto b = Backward<T>::take(arena, p);
  const Shape<T> shape(in.D);
  const T* g = static_cast<const T*>(p.grad_logits);
  const Samples<T, E> samples{in, g};
  const SortedSamples<T, E> sorted{in, g, b.order};
  if (p.grad_table != nullptr) sort_samples(in, b, p.threads);
#pragma omp parallel num_threads(p.threads)
  {
    T* sum = b.buffers.own();
    if (p.grad_query != nullptr) {
#pragma omp for schedule(dynamic, draw(in.N, p.threads)) nowait
      for (std::int64_t i = 0; i < in.N; ++i) {
        sum_rows<T, E>(shape, samples, i * in.K, in.K, sum);
        shape.write(sum, static_cast<E*>(p.grad_query) + i * in.D);
      }
    }
    if (p.grad_table != nullptr) {
#pragma omp for schedule(dynamic, draw(in.V, p.threads))
      for (std::int64_t v = 0; v < in.V; ++v) {
        E* row = static_cast<E*>(p.grad_table) + v * in.D;
        const std::int64_t first = v == 0 ? 0 : b.end[v - 1], count = b.end[v] - first;
        if (count == 0) {
          std::memset(row, 0, std::size_t(in.D) * sizeof(E));
        } else {
          sum_rows<T, E>(shape, sorted, first, count, sum);
          shape.write(sum, row);
        }
      }
    }
  }
}

template <class T>
std::int64_t backward_bytes(const SampledLogitsBwd& p) {
  Arena arena(nullptr);
  Backward<T>::take(arena, p);
  return arena.used();
}

template <class T>
std::int64_t forward_bytes(const SampledLogitsFwd& p) {
  Arena arena(nullptr);
  RowBuffers<T>::take(arena, p.in.D, p.threads);
  return arena.used();
}

}  // namespace

std::int64_t sampled_logits_fwd_workspace(const SampledLogitsFwd& p) {
  return p.in.dtype == Dtype::kFloat64 ? forward_bytes<double>(p) : forward_bytes<float>(p);
}

std::int64_t sampled_logits_bwd_workspace(const SampledLogitsBwd& p) {
  return p.in.dtype == Dtype::kFloat64 ? backward_bytes<double>(p) : backward_bytes<float>(p);
}

void sampled_logits_fwd(const SampledLogitsFwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { forward<T, E>(p); });
}

void sampled_logits_bwd(const SampledLogitsBwd& p) {
  with_types(p.in.dtype, [&]<class T, class E>() { backward<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, sampled_logits_fwd_workspace, const SampledLogitsFwd&)
SSLKERN_ENTRY(std::int64_t, sampled_logits_bwd_workspace, const SampledLogitsBwd&)
SSLKERN_ENTRY(void, sampled_logits_fwd, const SampledLogitsFwd&)
SSLKERN_ENTRY(void, sampled_logits_bwd, const SampledLogitsBwd&)
