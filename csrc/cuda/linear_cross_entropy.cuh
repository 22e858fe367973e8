// The kernels of the softmax over a vocabulary; see contract/linear_cross_entropy.h for the
// formulas and letters.
#pragma once
#include "contract/linear_cross_entropy.h"
#include "cuda/functions.cuh"
#include "cuda/online.cuh"
#include "cuda/row_sums.cuh"

namespace sslkern::cuda {

// A thread per class.
template <class T>
__global__ void __launch_bounds__(256)
    linear_cross_entropy_classes_kernel(LinearCrossEntropyClasses p) {
  const std::int64_t j = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (j >= padded_rows(p.V)) return;
  const bool exists = j < p.V;
  const double c = exists ? (p.class_weight == nullptr ? 1 : p.class_weight[j]) : 0;
  const double bias = exists && p.bias != nullptr ? p.bias[j] : 0;
  static_cast<T*>(p.shift)[j] = T(bias * kLog2E);
  static_cast<T*>(p.share)[j] = T((1 - p.label_smoothing) * c);
  static_cast<T*>(p.uniform)[j] = T(c * p.label_smoothing / double(p.V));
}

// A thread per place. A target out of range points to the first class, with NaN.
__global__ void __launch_bounds__(256)
    linear_cross_entropy_places_kernel(LinearCrossEntropyPlaces p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= padded_rows(p.N)) return;
  std::int32_t target_at = i < p.N ? kNoTarget : kNoRow;
  double kept = 0;
  if (i < p.N && p.target != nullptr) {
    const std::int64_t row = p.sorted[i], target = p.target[row];
    const bool inside = target >= 0 && target < p.V, ignored = target == p.ignore_index;
    const double c = inside && p.class_weight != nullptr ? p.class_weight[target] : 1;
    target_at = ignored ? kNoRow : inside ? std::int32_t(target) : 0;
    kept = ignored ? 0 : inside ? (1 - p.label_smoothing) * c : double(NAN);
    p.order[i] = ignored ? ~row : row;
  }
  p.target_at[i] = target_at;
  p.kept[i] = kept;
}

// What is known of the targets: an index, that and label smoothing, or probabilities.
enum class Targets { kIndex, kSmoothed, kDense };

// Logits of a tile, and their targets.
template <class P, Targets kTargets>
struct Vocabulary {
  using T = typename P::Working;
  const LinearCrossEntropyTable& in;
  const Place<P>& at;
  bool capped;
  T most, inverse;  // softcap log2(e), and one divided by that

  static SSLKERN_DEVICE Vocabulary of(const LinearCrossEntropyTable& in, const Place<P>& at) {
    const double most = in.softcap * kLog2E;
    return {in, at, in.softcap > 0, T(most), T(in.softcap > 0 ? 1 / most : 0)};
  }

  // x in the place of the products.
  SSLKERN_DEVICE void make_logits(Results<P>& c, int column) const {
    ColumnValues<P> shift;
    load_columns<P>(shift, in.shift, column, at);
    for_each_result<P>(c, [&](T& x, int, int, int j, int i) { x = x * T(kLog2E) + shift[j][i]; });
    if (!capped) return;
    for_each_result<P>(c, [&](T& x, int, int, int, int) { x = most * tanh_of(x * inverse); });
  }

  // Of the classes from `column` on: the lane's first.
  SSLKERN_DEVICE int first_class(int column) const { return column + at.column_of(0, 0); }

  // The class of result q of a row, counted from that.
  static SSLKERN_DEVICE int offset(int q) { return P::column_of(q / 2, q % 2, 0); }

  // What the targets of the lane's classes are made of: c_j e / V and (1 - e) c_j.
  SSLKERN_DEVICE void load_terms(ColumnValues<P>& uniform, ColumnValues<P>& share,
                                 int column) const {
    if constexpr (kTargets != Targets::kIndex) load_columns<P>(uniform, in.uniform, column, at);
    if constexpr (kTargets == Targets::kDense) load_columns<P>(share, in.share, column, at);
  }

  // Of row i: which of the lane's classes is its target, none where that is negative or beyond.
  SSLKERN_DEVICE int hit(int i, int column) const {
    return kTargets == Targets::kDense ? -1 : in.target_at[i] - first_class(column);
  }

  SSLKERN_DEVICE const T* probabilities(int i, int column) const {
    return static_cast<const T*>(in.probability) + i * in.stride + first_class(column);
  }
};

// The row at a place, ignored or not.
SSLKERN_DEVICE std::int64_t row_at(const std::int64_t* order, std::int64_t place) {
  const std::int64_t row = order == nullptr ? place : order[place];
  return row < 0 ? ~row : row;
}

// What a block does with a tile of products: the terms of its targets, and minus infinity behind
// the last class.
template <class P, Targets kTargets>
struct VocabularySums {
  using T = typename P::Working;
  using V = Vocabulary<P, kTargets>;
  const LinearCrossEntropySums& p;
  const V& vocabulary;
  const RowSums<P>&dot, &mass;
  int first_row;

  template <bool kPlain>
  SSLKERN_DEVICE void visit(Results<P>& c, int column) const {
    const Place<P>& at = vocabulary.at;
    const int left = int(p.in.weight.N) - vocabulary.first_class(column);
    ColumnValues<P> uniform, share;
    vocabulary.load_terms(uniform, share, column);
    auto dots = dot.cursor(), masses = mass.cursor();
    for_each_row<P>(c, at, [&](int row, RowResults<P>& x) {
      const int i = first_row + row;
      if constexpr (kTargets != Targets::kDense) {
        const int hit = vocabulary.hit(i, column);
        bool found = false;
        T logit = 0;
#pragma unroll
        for (int q = 0; q < 2 * P::kN; ++q) {
          if (V::offset(q) == hit) {
            found = true;
            logit = x[q];
          }
        }
        if (found) static_cast<T*>(p.logit)[i] = logit;
      }
      if constexpr (kTargets != Targets::kIndex) {
        const T* probability = vocabulary.probabilities(i, column);
        const int readable = i < p.in.input.N ? left : 0;
        T row_dot = 0, row_mass = 0;
#pragma unroll
        for (int q = 0; q < 2 * P::kN; ++q) {
          T t = uniform[q / 2][q % 2];
          if constexpr (kTargets == Targets::kDense) {
            if (V::offset(q) < readable) t += probability[V::offset(q)] * share[q / 2][q % 2];
          }
          // What has no coefficient is 0, also where the logit is infinite.
          row_dot += t != T(0) ? t * x[q] : T(0);
          row_mass += t;
        }
        dots.add(row_dot);
        if constexpr (kTargets == Targets::kDense) masses.add(row_mass);
      }
      if constexpr (!kPlain) {
#pragma unroll
        for (int q = 0; q < 2 * P::kN; ++q) x[q] = V::offset(q) < left ? x[q] : T(-INFINITY);
      }
    });
  }
};

// Grid (tiles of rows, splits), block P::kThreads, dynamic shared memory of shared_need with
// OnlineRows and the RowSums of kTargets besides. A block owns the rows of its tile and walks along
// its share of the classes; a lane keeps the largest logit, the sum of powers and the terms of the
// targets of the classes that it has seen. Blocks of ignored rows walk nowhere. Per logit D
// multiply-adds, one exponential and six operations; with a softcap one more exponential, a
// reciprocal and 15. No logit is written. Probabilities are read once.
template <class P, bool kResident, Targets kTargets>
__global__ void __launch_bounds__(P::kThreads,
                                  kResident&& kTargets == Targets::kIndex ? P::kMinBlocks : 1)
    linear_cross_entropy_fwd_kernel(LinearCrossEntropySums p) {
  using T = typename P::Working;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  Walk walk = walk_of<P>(p.in.input, 0, p.in.weight, p.splits);
  const int first_row = int(blockIdx.x) * P::kSide;
  if (p.in.target_at[first_row] == kNoRow) walk.end = walk.begin;
  unsigned char* const states = behind_tiles<P, kResident>(shared, walk);
  const OnlineRows<P> online{reinterpret_cast<T*>(states), at};
  double* const sums = reinterpret_cast<double*>(states + OnlineRows<P>::kBytes);
  const RowSums<P> dot{sums, at}, mass{sums + RowSums<P>::kBytes / sizeof(double), at};
  online.clear();
  if constexpr (kTargets != Targets::kIndex) dot.clear();
  if constexpr (kTargets == Targets::kDense) mass.clear();
  const auto vocabulary = Vocabulary<P, kTargets>::of(p.in, at);
  const VocabularySums<P, kTargets> collect{p, vocabulary, dot, mass, first_row};
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int tile) {
    const int column = tile * P::kSide;
    vocabulary.make_logits(c, column);
    column <= int(p.in.weight.N) - P::kSide ? collect.template visit<true>(c, column)
                                            : collect.template visit<false>(c, column);
    online.add(c);
  });
  const std::int64_t first = blockIdx.y * p.in.input.padded_N() + first_row;
  online.write(static_cast<T*>(p.partial) + 2 * first, reinterpret_cast<T*>(shared));
  if constexpr (kTargets != Targets::kIndex) dot.write(p.dot + first);
  if constexpr (kTargets == Targets::kDense) mass.write(p.mass + first);
}

// A thread per place: merges the splits. lse and the terms of the targets nearly cancel, so all of
// it is in float64.
template <class T>
__global__ void __launch_bounds__(256) linear_cross_entropy_merge_kernel(LinearCrossEntropySums p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= p.in.input.N) return;
  const std::int64_t padded = p.in.input.padded_N();
  double lse = merged_lse(static_cast<const T*>(p.partial), i, padded, p.splits);
  double dot = 0, mass = 0;
  for (std::int64_t s = 0; p.dot != nullptr && s < p.splits; ++s) dot += p.dot[s * padded + i];
  for (std::int64_t s = 0; p.mass != nullptr && s < p.splits; ++s) mass += p.mass[s * padded + i];
  const std::int32_t target = p.in.target_at[i];
  if (target >= 0) {
    const double kept = p.in.kept[i], classes = double(p.in.weight.N);
    const double sum = p.class_sum == nullptr ? classes : *p.class_sum;
    mass = kept + (p.in.label_smoothing > 0 ? sum * p.in.label_smoothing / classes : 0);
    if (kept != 0) dot += kept * double(static_cast<const T*>(p.logit)[i]);
  }
  double loss = (mass * lse - dot) * kLn2;
  if (target == kNoRow) loss = lse = mass = 0;
  const std::int64_t row = row_at(p.in.order, i);
  p.wide[i] = loss;
  static_cast<T*>(p.loss)[row] = T(loss);
  p.stats[2 * row] = lse;
  p.stats[2 * row + 1] = mass;
}

// A thread per place. shift + log2 of what is in fine beside g m is lse, to more digits than a
// float32 has.
template <class T>
__global__ void __launch_bounds__(256)
    linear_cross_entropy_weights_kernel(LinearCrossEntropyWeights p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= padded_rows(p.N)) return;
  const bool counts = p.target_at[i] != kNoRow;
  const std::int64_t row = counts ? row_at(p.order, i) : 0;
  const double unit = (p.unit == nullptr ? 1 : *p.unit) * *p.unit_mass;
  const double upstream =
      counts && p.grad_loss != nullptr ? double(static_cast<const T*>(p.grad_loss)[row]) : 1;
  const double g = counts ? upstream / unit : 0, lse = counts ? p.stats[2 * row] : 0;
  const T shift = T(lse);
  static_cast<T*>(p.shift)[i] = shift;
  static_cast<T*>(p.fine)[i] =
      counts ? T(g * p.stats[2 * row + 1] * exp2(double(shift) - lse)) : T(0);
  static_cast<T*>(p.gradient)[i] = T(g);
  static_cast<T*>(p.hit)[i] = T(g * p.kept[i]);
}

// What a block does with a tile of logits: G in its place, a row at a time.
template <class P, Targets kTargets>
struct VocabularyGradient {
  using T = typename P::Working;
  using V = Vocabulary<P, kTargets>;
  const LinearCrossEntropyTiles& p;
  const V& vocabulary;

  SSLKERN_DEVICE T of_row(const void* values, int i) const {
    return static_cast<const T*>(values)[i];
  }

  // kPlain: all classes exist, and there is no softcap.
  template <bool kPlain>
  SSLKERN_DEVICE void visit(Results<P>& c, int first_row, int column) const {
    const Place<P>& at = vocabulary.at;
    const std::int64_t pitch = p.in.weight.padded_N();
    const int left = int(p.in.weight.N) - vocabulary.first_class(column);
    ColumnValues<P> uniform, share, sums = {};
    vocabulary.load_terms(uniform, share, column);
    RowPointer<P> pointer(
        static_cast<typename P::Element*>(p.out) + (first_row - p.first_row) * pitch + column,
        pitch, at);
    for_each_row<P>(c, at, [&](int row, RowResults<P>& x) {
      const int i = first_row + row, hit = vocabulary.hit(i, column);
      const T shift = of_row(p.shift, i), fine = of_row(p.fine, i), g = of_row(p.gradient, i);
      const T hit_gradient = of_row(p.hit, i), written = T(gradient_scale(p.in.input.dtype));
      const int existing = p.in.target_at[i] == kNoRow ? 0 : left;
      const T* probability = vocabulary.probabilities(i, column);
#pragma unroll
      for (int q = 0; q < 2 * P::kN; ++q) {
        const bool counts = kPlain ? existing > 0 : V::offset(q) < existing;
        T value = power_of_two(x[q] - shift) * fine;
        if constexpr (kTargets != Targets::kIndex) {
          T t = uniform[q / 2][q % 2];
          if constexpr (kTargets == Targets::kDense) {
            if (counts) t += probability[V::offset(q)] * share[q / 2][q % 2];
          }
          value -= g * t;
        }
        if constexpr (kTargets != Targets::kDense) {
          if (V::offset(q) == hit) value -= hit_gradient;
        }
        if constexpr (!kPlain) {
          const T ratio = x[q] * vocabulary.inverse;
          if (vocabulary.capped) value *= T(1) - ratio * ratio;
        }
        value = counts ? value : T(0);
        sums[q / 2][q % 2] += value;
        x[q] = value * written;
      }
      pointer.store(x);
    });
    if (p.column_sums != nullptr) write_columns(sums, first_row, column);
  }

  // Where the sums of the columns of a warp's rows go, `row` the first of these in the block.
  SSLKERN_DEVICE T* column_sums_of(int first_row, int row) const {
    constexpr std::int64_t kParts = P::kSide / P::kWarpRows;
    const std::int64_t part = (first_row - p.first_row) / P::kSide * kParts + row / P::kWarpRows;
    return static_cast<T*>(p.column_sums) + part * p.in.weight.padded_N();
  }

  // Of the rows of a warp: its lanes are added as a tree, a column after the other. column_sum
  // takes fewer shuffles, and with label smoothing more registers than two blocks have.
  SSLKERN_DEVICE void write_columns(ColumnValues<P>& sums, int first_row, int column) const {
    const Place<P>& at = vocabulary.at;
    T* to = column_sums_of(first_row, at.row) + vocabulary.first_class(column);
#pragma unroll
    for (int q = 0; q < 2 * P::kN; ++q) {
      T sum = sums[q / 2][q % 2];
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2) {
        sum += __shfl_xor_sync(kAllLanes, sum, distance);
      }
      if (at.g == 0) to[V::offset(q)] = sum;
    }
  }

  // Of rows that are all ignored, 16 bytes of a row at a time.
  SSLKERN_DEVICE void write_zeros(const Walk& walk, int first_row) const {
    using Element = typename P::Element;
    constexpr int kPerPiece = kPieceBytes / int(sizeof(Element));
    const std::int64_t pitch = p.in.weight.padded_N(), first = std::int64_t(walk.begin) * P::kSide;
    const std::int64_t last = std::int64_t(walk.end) * P::kSide, row = first_row - p.first_row;
    for (int i = 0; i < P::kSide; ++i) {
      uint4* to = reinterpret_cast<uint4*>(static_cast<Element*>(p.out) + (row + i) * pitch);
      for (std::int64_t piece = first / kPerPiece + threadIdx.x; piece < last / kPerPiece;
           piece += P::kThreads) {
        to[piece] = make_uint4(0, 0, 0, 0);
      }
    }
    for (int i = 0; p.column_sums != nullptr && i < P::kSide; i += P::kWarpRows) {
      T* to = column_sums_of(first_row, i);
      for (std::int64_t j = first + threadIdx.x; j < last; j += P::kThreads) to[j] = 0;
    }
  }
};

// Grid (tiles of the given rows, splits), block P::kThreads, dynamic shared memory of shared_need.
// Writes G, (rows, padded V): per element D multiply-adds, one exponential, eight operations, its
// bytes once; a softcap costs what it does in the forward pass. Of ignored rows the bytes alone.
template <class P, bool kResident, Targets kTargets>
__global__ void __launch_bounds__(P::kThreads, kTargets == Targets::kDense ? 1 : P::kMinBlocks)
    linear_cross_entropy_tiles_kernel(LinearCrossEntropyTiles p) {
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  Walk walk = walk_of<P>(p.in.input, p.first_row, p.in.weight, p.splits);
  const int first_row = int(p.first_row) + int(blockIdx.x) * P::kSide;
  const auto vocabulary = Vocabulary<P, kTargets>::of(p.in, at);
  const VocabularyGradient<P, kTargets> gradient{p, vocabulary};
  if (p.in.target_at[first_row] == kNoRow) {
    gradient.write_zeros(walk, first_row);
    walk.end = walk.begin;
  }
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int tile) {
    const int column = tile * P::kSide;
    vocabulary.make_logits(c, column);
    const bool plain = !vocabulary.capped && column <= int(p.in.weight.N) - P::kSide;
    plain ? gradient.template visit<true>(c, first_row, column)
          : gradient.template visit<false>(c, first_row, column);
  });
}

// A thread per class.
template <class T>
__global__ void __launch_bounds__(256) linear_cross_entropy_bias_kernel(LinearCrossEntropyBias p) {
  const std::int64_t j = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (j >= p.V) return;
  const std::int64_t padded = padded_rows(p.V);
  const double unit = (p.unit == nullptr ? 1 : *p.unit) * *p.unit_mass;
  double sum = 0;
  for (std::int64_t part = 0; part < p.parts; ++part) {
    sum += double(static_cast<const T*>(p.column_sums)[part * padded + j]);
  }
  p.sum[j] = (p.add ? p.sum[j] : 0) + sum * unit;
}

}  // namespace sslkern::cuda
