// Matrix products of a batch X (N rows, D columns, each column shifted and scaled) with itself and
// with what comes of that, for losses over columns; see contract/gram.h for the two ways.
//
// Every matrix is kept as strips, so that each can be any part of C = A B:
//
//   strips  [C / NR][pitch][NR]    columns cut into strips of NR, each with all rows
//
// B of the micro-kernel is a strip, A is read from strips by broadcasts, C is written to one. Both
// X and X^T are packed, a slab of the inner dimension at a time; the products of rows X X^T and of
// columns X^T X differ only in which of the two is A. No bit depends on the number of threads:
// every tile of a product has one owner, and sums are added up strip by strip.
#pragma once
#include "contract/gram.h"
#include "cpu/arena.h"
#include "cpu/panels.h"
#include "cpu/schedule.h"

namespace sslkern::cpu::SSLKERN_ISA {

// Rows of a strip beyond the padded ones: the parts of all strips that MR rows of A touch would
// otherwise lie a multiple of 4 KiB apart, in the same few sets of L1.
constexpr int kStripPadding = 12;

// Inner dimensions per pass of a product: a strip of B (NR x 256 x 4 bytes) then stays in L1.
constexpr std::int64_t kDepthPerPass = 256;

// Where a difference of sums is smaller than the largest of them by more than this factor, float32
// products are not good enough.
constexpr double kDigitsLost = 16;

struct Range {
  std::int64_t begin, end;

  std::int64_t count() const { return end - begin; }
};

template <class T>
struct Strips {
  static constexpr int NR = kMicroCols<T>;
  T* data;
  std::int64_t pitch;  // rows from one strip to the next

  static Strips at_address(T* data, std::int64_t rows) {
    return {data, round_up(rows, kTileUnit) + kStripPadding};
  }
  static Strips take(Arena& arena, std::int64_t rows, std::int64_t columns) {
    const Strips s = at_address(nullptr, rows);
    return {arena.take<T>(ceil_div(columns, NR) * s.strip_size()), s.pitch};
  }

  std::int64_t strip_size() const { return pitch * NR; }
  T* at(std::int64_t row, std::int64_t strip) const { return data + (strip * pitch + row) * NR; }
  Strips from(std::int64_t strip) const { return {at(0, strip), pitch}; }
};

// C (+)= A B for these rows, from a multiple of MR on, and these strips of C. Rows past the last up
// to a multiple of MR are computed too. upper: not what lies wholly below the diagonal.
template <class T>
void multiply(const Strips<T>& a, const Strips<T>& b, const Strips<T>& c, Range rows, Range strips,
              std::int64_t depth, bool accumulate, bool upper) {
  constexpr int NR = kMicroCols<T>, MR = kMicroRows;
  for (std::int64_t k = 0; k < depth; k += kDepthPerPass) {
    const std::int64_t dims = smaller(kDepthPerPass, depth - k);
    for (std::int64_t s = strips.begin; s < strips.end; ++s) {
      const std::int64_t end = upper ? smaller(rows.end, (s + 1) * NR) : rows.end;
      for (std::int64_t i = rows.begin; i < end; i += MR) {
        micro_product<T, NR, 1>(a.at(i, k / NR), a.strip_size(), b.at(k, s), dims / NR,
                                int(dims % NR), c.at(i, s), NR, accumulate || k > 0);
      }
    }
  }
}

template <class T>
SSLKERN_INLINE void transpose_square(const T* from, T* to) {
  constexpr int NR = kMicroCols<T>, W = kWidth<T>;
  for (int i = 0; i < NR; i += W) {
    for (int j = 0; j < NR; j += W) {
      transpose_block<T>(from + i * NR + j, NR, to + j * NR + i, NR);
    }
  }
}

// ---- views, and statistics of their columns

// A view as the losses see it: x_nj = (z_nj - mean_j) scale_j, in double before it is rounded.
template <class E>
struct View {
  const E* z;
  std::int64_t stride, rows, columns;
  const double *mean, *scale;

  const E* at(std::int64_t n, std::int64_t d) const { return z + n * stride + d; }
};

// View v of a batch; mean and scale are rows of D.
template <class E>
SSLKERN_INLINE View<E> view_of(const GramInput& in, int v, const double* mean,
                               const double* scale) {
  return {static_cast<const E*>(in.z[v]), in.stride[v], in.N, in.D, mean, scale};
}

// Columns that a thread takes at a time.
constexpr int kMostColumns = 128;
SSLKERN_INLINE std::int64_t columns_at_a_time(std::int64_t dims) {
  return dims < 8 * kMostColumns ? kMostColumns / 4 : kMostColumns;
}

// Calls visit(columns) for parts of all columns, by all threads of a team; ends with a barrier.
template <class Visit>
void for_columns(std::int64_t dims, const Visit& visit) {
  const std::int64_t step = columns_at_a_time(dims);
#pragma omp for schedule(dynamic)
  for (std::int64_t d = 0; d < dims; d += step) visit(Range{d, smaller(d + step, dims)});
}

// Means, and sums of squared distances from them, whatever the view's own mean and scale. The
// second pass corrects the mean of the first.
template <class E>
void column_moments(const View<E>& view, Range columns, double* mean, double* squares) {
  const std::int64_t n = view.rows;
  const int count = int(columns.count());
  double sum[kMostColumns] = {}, square[kMostColumns] = {}, center[kMostColumns];
  for (std::int64_t i = 0; i < n; ++i) {
    const E* row = view.at(i, columns.begin);
    for (int c = 0; c < count; ++c) sum[c] += double(math::to_float(row[c]));
  }
  for (int c = 0; c < count; ++c) {
    center[c] = sum[c] / double(n);
    sum[c] = 0;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    const E* row = view.at(i, columns.begin);
    for (int c = 0; c < count; ++c) {
      const double x = double(math::to_float(row[c])) - center[c];
      sum[c] += x;
      square[c] += x * x;
    }
  }
  for (int c = 0; c < count; ++c) {
    const double rest = sum[c] / double(n);
    mean[c] = center[c] + rest;
    squares[c] = square[c] - rest * sum[c];
  }
}

// sum_n f(z_a_n, z_b_n, column) of each column.
template <class E, class F>
void column_pair_sums(const GramInput& in, Range columns, const F& f, double* sums) {
  const int count = int(columns.count());
  double sum[kMostColumns] = {};
  for (std::int64_t i = 0; i < in.N; ++i) {
    const E* a = static_cast<const E*>(in.z[0]) + i * in.stride[0] + columns.begin;
    const E* b = static_cast<const E*>(in.z[1]) + i * in.stride[1] + columns.begin;
    for (int c = 0; c < count; ++c) {
      sum[c] += f(double(math::to_float(a[c])), double(math::to_float(b[c])), c);
    }
  }
  for (int c = 0; c < count; ++c) sums[c] = sum[c];
}

// ---- packing

// Rows n .. n + NR of strip s of X, zeros outside of it.
template <class T, class E>
void pack_square(const View<E>& view, std::int64_t n, std::int64_t s, T* to) {
  constexpr int NR = kMicroCols<T>;
  const std::int64_t d = s * NR;
  const int rows = int(smaller(NR, view.rows - n)), cols = int(smaller(NR, view.columns - d));
  const double *mean = view.mean + d, *scale = view.scale + d;
  for (int r = 0; r < rows; ++r) {
    const E* z = view.at(n + r, d);
    for (int c = 0; c < cols; ++c) {
      to[r * NR + c] = T((double(math::to_float(z[c])) - mean[c]) * scale[c]);
    }
    for (int c = cols; c < NR; ++c) to[r * NR + c] = T(0);
  }
  for (int i = rows * NR; i < NR * NR; ++i) to[i] = T(0);
}

// Strips of X for all of its rows.
template <class T, class E>
void pack_strips(const View<E>& view, Range strips, const Strips<T>& to) {
  for (std::int64_t s = strips.begin; s < strips.end; ++s) {
    for (std::int64_t n = 0; n < view.rows; n += kMicroCols<T>) {
      pack_square<T, E>(view, n, s, to.at(n, s - strips.begin));
    }
  }
}

// Strips of z_a - z_b for all of their rows.
template <class T, class E>
void pack_difference(const GramInput& in, Range strips, const Strips<T>& to) {
  constexpr int NR = kMicroCols<T>;
  for (std::int64_t n = 0; n < in.N; ++n) {
    const E* a = static_cast<const E*>(in.z[0]) + n * in.stride[0];
    const E* b = static_cast<const E*>(in.z[1]) + n * in.stride[1];
    for (std::int64_t s = strips.begin; s < strips.end; ++s) {
      T* row = to.at(n, s - strips.begin);
      const int count = int(smaller(NR, in.D - s * NR));
      for (int c = 0; c < count; ++c) {
        row[c] = T(math::to_float(a[s * NR + c])) - T(math::to_float(b[s * NR + c]));
      }
      for (int c = count; c < NR; ++c) row[c] = T(0);
    }
  }
}

// All of X, by all threads of a team; ends with a barrier.
template <class T, class E>
void pack_view(const View<E>& view, const Strips<T>& to) {
#pragma omp for schedule(static)
  for (std::int64_t s = 0; s < ceil_div(view.columns, kMicroCols<T>); ++s) {
    pack_strips<T, E>(view, {s, s + 1}, to.from(s));
  }
}

// ---- products of rows or of columns

// A part of the inner dimension of the products: columns of X for those of rows, rows of X for
// those of columns. Its size is a function of that of the problem alone.
template <class T>
struct Slab {
  Strips<T> x, turned;

  static std::int64_t depth(const GramInput& in) {
    constexpr std::int64_t kElements = std::int64_t(1) << 19;
    const std::int64_t most = round_up(kElements / in.side(), kDepthPerPass);
    return smaller(in.gram ? in.D : in.N, most < kDepthPerPass ? kDepthPerPass : most);
  }
  static Slab take(Arena& arena, const GramInput& in) {
    const std::int64_t rows = in.gram ? in.N : depth(in), columns = in.gram ? depth(in) : in.D;
    return {Strips<T>::take(arena, rows, columns), Strips<T>::take(arena, columns, rows)};
  }

  // To be called by all threads of a team; without a barrier.
  template <class E>
  void load(const GramInput& in, const View<E>& view, Range inner) const {
    constexpr int NR = kMicroCols<T>;
    constexpr std::int64_t kGroup = 8;
    const Range rows = in.gram ? Range{0, in.N} : inner, columns = in.gram ? inner : Range{0, in.D};
    const std::int64_t first = columns.begin / NR, strips = ceil_div(columns.count(), NR);
    const std::int64_t groups = ceil_div(strips, kGroup);
    const std::int64_t tasks = ceil_div(rows.count(), NR) * groups;
#pragma omp for schedule(static) nowait
    for (std::int64_t task = 0; task < tasks; ++task) {
      const std::int64_t n = task / groups * NR, from = task % groups * kGroup;
      for (std::int64_t s = from; s < smaller(from + kGroup, strips); ++s) {
        pack_square<T, E>(view, rows.begin + n, first + s, x.at(n, s));
        transpose_square<T>(x.at(n, s), turned.at(s * NR, n / NR));
      }
    }
  }
};

// A matrix of products and the slabs that it is made of: of a view with itself, or with another.
template <class T>
struct Product {
  Strips<T> result;
  Slab<T> left, right;
  bool symmetric;
};

// Tiles of a product: those on and above the diagonal of a symmetric one.
struct ProductTiles {
  std::int64_t side, tile;
  bool symmetric;

  std::int64_t blocks() const { return ceil_div(side, tile); }
  std::int64_t count() const {
    return symmetric ? blocks() * (blocks() + 1) / 2 : blocks() * blocks();
  }
  Range rows(std::int64_t block) const { return {block * tile, smaller((block + 1) * tile, side)}; }

  template <class Visit>
  void visit(std::int64_t n, const Visit& visit) const {
    std::int64_t i = n % blocks(), j = n / blocks();
    if (symmetric) {
      for (j = 0, i = n; i > j; ++j) i -= j + 1;
    }
    visit(rows(i), rows(j), symmetric && i == j);
  }
};

// Adds what a slab contributes to the products, by all threads of a team; ends with a barrier.
template <class T>
void add_products(const GramInput& in, const Product<T>* products, int count, std::int64_t depth,
                  bool accumulate) {
  constexpr int NR = kMicroCols<T>;
  const ProductTiles tiles{in.side(), Packed<T>::sized(in.side(), 1).tile, products->symmetric};
#pragma omp for schedule(dynamic)
  for (std::int64_t task = 0; task < count * tiles.count(); ++task) {
    const Product<T>& p = products[task % count];
    tiles.visit(task / count, [&](Range rows, Range columns, bool diagonal) {
      const Range strips{columns.begin / NR, ceil_div(columns.end, NR)};
      const Strips<T>& a = in.gram ? p.left.x : p.left.turned;
      const Strips<T>& b = in.gram ? p.right.turned : p.right.x;
      multiply<T>(a, b, p.result, rows, strips, depth, accumulate, diagonal);
    });
  }
}

// Computes the products, by all threads of a team; load(inner) fills the slabs. Ends with a
// barrier.
template <class T, class Load>
void compute_products(const GramInput& in, const Product<T>* products, int count,
                      const Load& load) {
  const std::int64_t depth = in.gram ? in.D : in.N, step = Slab<T>::depth(in);
  for (std::int64_t k = 0; k < depth; k += step) {
    const Range inner{k, smaller(k + step, depth)};
    load(inner);
#pragma omp barrier
    add_products<T>(in, products, count, inner.count(), k > 0);
  }
}

// Calls visit(row, values) for the rows of a strip of a product that were computed: of a symmetric
// one those of the NR x NR squares on and above the diagonal; twice says that the square below the
// diagonal is the same.
template <class T, class Visit>
SSLKERN_INLINE void for_rows_of_strip(const Strips<T>& s, std::int64_t side, std::int64_t strip,
                                      bool symmetric, const Visit& visit) {
  constexpr int NR = kMicroCols<T>;
  const std::int64_t end = symmetric ? smaller(side, (strip + 1) * NR) : side;
  for (std::int64_t i = 0; i < end; ++i) visit(i, s.at(i, strip), symmetric && i < strip * NR);
}

// sum_ij X_ij Y_ij over a strip, and over the rows of a symmetric product that mirror it.
template <class T>
double strip_sum(const Strips<T>& x, const Strips<T>& y, std::int64_t side, std::int64_t strip,
                 bool symmetric) {
  constexpr int NR = kMicroCols<T>;
  double once[NR] = {}, twice[NR] = {}, sum = 0;
  for_rows_of_strip<T>(x, side, strip, symmetric, [&](std::int64_t i, const T* row, bool mirrored) {
    const T* other = y.at(i, strip);
    double* to = mirrored ? twice : once;
    for (int c = 0; c < NR; ++c) to[c] += double(row[c]) * double(other[c]);
  });
  for (int c = 0; c < NR; ++c) sum += once[c] + 2 * twice[c];
  return sum;
}

// Sets the elements of the diagonal in a strip: value(j).
template <class T, class Value>
void set_diagonal(const Strips<T>& s, std::int64_t side, std::int64_t strip, const Value& value) {
  constexpr int NR = kMicroCols<T>;
  for (std::int64_t j = strip * NR; j < smaller(side, (strip + 1) * NR); ++j) {
    s.at(j, strip)[j % NR] = T(value(j));
  }
}

// Zeros where no products are: below the last row of a strip, and behind the last strip.
template <class T>
void clear_padding(const Strips<T>& s, std::int64_t side, std::int64_t strip, bool symmetric) {
  constexpr int NR = kMicroCols<T>;
  const std::int64_t strips = ceil_div(side, NR);
  // What mirrors the last strip has its padding.
  const std::int64_t row = symmetric && strip + 1 < strips ? strips * NR : side;
  const std::int64_t end = strip + 1 < strips ? strip : round_up(side, kTileUnit) / NR - 1;
  __builtin_memset(s.at(row, strip), 0, (s.pitch - row) * NR * sizeof(T));
  __builtin_memset(s.at(0, strip + 1), 0, (end - strip) * s.strip_size() * sizeof(T));
}

// Multiplies what a strip of a product holds, and completes what mirrors it.
template <class T>
void scale_strip(const Strips<T>& s, std::int64_t side, std::int64_t strip, double factor,
                 bool symmetric) {
  constexpr int NR = kMicroCols<T>;
  const T f = T(factor);
  for_rows_of_strip<T>(s, side, strip, symmetric, [&](std::int64_t, T* row, bool) {
    for (int c = 0; c < NR; ++c) row[c] *= f;
  });
  clear_padding<T>(s, side, strip, symmetric);
  for (std::int64_t p = 0; symmetric && p < strip; ++p) {
    transpose_square<T>(s.at(p * NR, strip), s.at(strip * NR, p));
  }
}

// ---- gradients, a few strips of columns at a time

// Strips that a thread takes at a time: each reads all of A.
template <class T>
SSLKERN_INLINE std::int64_t strips_at_a_time(std::int64_t dims) {
  const std::int64_t share = ceil_div(dims, kMicroCols<T>) / 32;
  return share < 1 ? 1 : smaller(share, 4);
}

// Calls visit(strips) for parts of all columns, by all threads of a team; ends with a barrier.
template <class T, class Visit>
void for_strips(std::int64_t dims, const Visit& visit) {
  const std::int64_t strips = ceil_div(dims, kMicroCols<T>), step = strips_at_a_time<T>(dims);
#pragma omp for schedule(dynamic)
  for (std::int64_t s = 0; s < strips; s += step) visit(Range{s, smaller(s + step, strips)});
}

// All rows of a few strips of A B, where B has these strips alone.
template <class T>
void multiply_strips(const Strips<T>& a, const Strips<T>& b, const Strips<T>& c, std::int64_t rows,
                     std::int64_t strips, std::int64_t depth) {
  for (std::int64_t i = 0; i < rows; i += kMaxTile) {
    multiply<T>(a, b, c, {i, smaller(i + kMaxTile, rows)}, {0, strips}, depth, false, false);
  }
}

// These strips of the transpose of a square matrix.
template <class T>
void transpose_strips(const Strips<T>& s, std::int64_t side, Range strips, const Strips<T>& to) {
  constexpr int NR = kMicroCols<T>;
  for (std::int64_t q = strips.begin; q < strips.end; ++q) {
    for (std::int64_t p = 0; p < ceil_div(side, NR); ++p) {
      transpose_square<T>(s.at(q * NR, p), to.at(p * NR, q - strips.begin));
    }
  }
}

// Means over the rows of a strip: of v, and of v x.
template <class T>
struct StripMeans {
  double value[kMicroCols<T>], product[kMicroCols<T>];

  StripMeans(const T* v, const T* x, std::int64_t rows) : value{}, product{} {
    constexpr int NR = kMicroCols<T>;
    for (std::int64_t n = 0; n < rows; ++n) {
      for (int c = 0; c < NR; ++c) {
        value[c] += double(v[n * NR + c]);
        product[c] += double(v[n * NR + c]) * double(x[n * NR + c]);
      }
    }
    for (int c = 0; c < NR; ++c) {
      value[c] /= double(rows);
      product[c] /= double(rows);
    }
  }
};

// From the type of the arithmetic to that of a gradient. Wide results pass float32, which may round
// a half type twice.
template <class E, class T>
SSLKERN_INLINE E round_to(T x) {
  if constexpr (sizeof(E) == 8)
    return x;
  else
    return math::Rounded<E>::from(float(x));
}

// grad_z = of_v (v - mean) + of_x x + of_y y, with factors for each column of a strip.
template <class T>
struct StripGradient {
  static constexpr int NR = kMicroCols<T>;
  alignas(kVectorBytes) T of_v[NR] = {}, mean[NR] = {}, of_x[NR] = {}, of_y[NR] = {};

  template <class E>
  void write(const T* v, const T* x, const T* y, std::int64_t rows, std::int64_t columns,
             std::int64_t strip, E* grad) const {
    const int count = int(smaller(NR, columns - strip * NR));
    for (std::int64_t n = 0; n < rows; ++n, v += NR, x += NR, y += NR) {
      T row[NR];
      for (int c = 0; c < NR; ++c) {
        row[c] = of_v[c] * (v[c] - mean[c]) + of_x[c] * x[c] + of_y[c] * y[c];
      }
      E* to = grad + n * columns + strip * NR;
      for (int c = 0; c < count; ++c) to[c] = round_to<E>(row[c]);
    }
  }
};

// ---- types

// Calls f<T, E>() as with_types does, with T = double where the arithmetic is wide.
template <class F>
void with_gram_types(const GramInput& in, const F& f) {
  switch (in.dtype) {
    case Dtype::kFloat64:
      return f.template operator()<double, double>();
    case Dtype::kFloat32:
      return in.wide ? f.template operator()<double, float>()
                     : f.template operator()<float, float>();
    case Dtype::kBFloat16:
      return in.wide ? f.template operator()<double, BFloat16>()
                     : f.template operator()<float, BFloat16>();
    case Dtype::kFloat16:
      return in.wide ? f.template operator()<double, Float16>()
                     : f.template operator()<float, Float16>();
  }
}

}  // namespace sslkern::cpu::SSLKERN_ISA
