// Barlow Twins on the CPU. Floor: 6 min(N, D)^2 max(N, D) operations, the products of one side of
// the batch and what they give the gradients (half of A and B with products of rows, by symmetry).
// What is left above the floor: reading the views three times (statistics, products, gradients),
// and where N is little the transposition of squares of 32 x 32.
#include "contract/cross_correlation.h"

#include "cpu/dtype.h"
#include "cpu/gram.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

using Row = CrossCorrelationColumns;

// View 0 or 1, standardised.
template <class E>
View<E> standardized(const GramInput& in, int v, const double* columns) {
  return view_of<E>(in, v, columns + (Row::kMean + v) * in.D, columns + (Row::kScale + v) * in.D);
}

template <class E>
void column_statistics(const CrossCorrelationFwd& p, Range columns) {
  const GramInput& in = p.in;
  const auto row = [&](int k) { return p.columns + k * in.D + columns.begin; };
  const std::int64_t count = columns.count();
  const double n = double(in.N);
  for (int v = 0; v < 2; ++v) {
    double squares[kMostColumns], *scale = row(Row::kScale + v);
    column_moments<E>(standardized<E>(in, v, p.columns), columns, row(Row::kMean + v), squares);
    for (int c = 0; c < count; ++c) scale[c] = 1 / __builtin_sqrt(squares[c] / n + p.eps);
  }
  const double *mean_a = row(Row::kMean), *mean_b = row(Row::kMean + 1);
  const double *scale_a = row(Row::kScale), *scale_b = row(Row::kScale + 1);
  double* correlation = row(Row::kCorrelation);
  column_pair_sums<E>(
      in, columns, [&](double a, double b, int c) { return (a - mean_a[c]) * (b - mean_b[c]); },
      correlation);
  for (int c = 0; c < count; ++c) correlation[c] *= scale_a[c] * scale_b[c] / n;
}

template <class T>
struct Forward {
  Product<T> products[2];  // A and B, or C
  int count;
  double* sums;  // (strips)

  static Forward take(Arena& arena, const CrossCorrelationFwd& p) {
    Forward f{};
    const GramInput& in = p.in;
    const Slab<T> a = Slab<T>::take(arena, in), b = Slab<T>::take(arena, in);
    const auto result = [&](int m) {
      T* data = static_cast<T*>(p.products);
      return Strips<T>::at_address(data + m * gram_elements(in.side()), in.side());
    };
    f.count = cross_correlation_matrices(in.gram);
    f.products[0] = {result(0), a, in.gram ? a : b, in.gram};
    f.products[1] = {result(f.count - 1), b, b, true};
    f.sums = arena.take<double>(ceil_div(in.side(), kMicroCols<T>));
    return f;
  }
  const Slab<T>& slab_a() const { return products[0].left; }
  const Slab<T>& slab_b() const { return products[1].left; }
};

// The sum of squares of a strip of C, with products of rows also over the diagonal of C; makes of
// the products what the backward pass reads.
template <class T>
void finish_strip(const CrossCorrelationFwd& p, const Forward<T>& f, std::int64_t strip) {
  const GramInput& in = p.in;
  const Strips<T>&x = f.products[0].result, &y = f.products[f.count - 1].result;
  const double n = double(in.N), factor = 2 * p.lambda / (n * n);
  if (!in.gram) set_diagonal<T>(x, in.D, strip, [](std::int64_t) { return 0.0; });
  f.sums[strip] = strip_sum<T>(x, y, in.side(), strip, in.gram) / (n * n);
  if (!p.keep) return;
  for (int m = 0; m < f.count; ++m) {
    scale_strip<T>(f.products[m].result, in.side(), strip, factor, in.gram);
  }
  if (in.gram) return;
  const double* correlation = p.columns + Row::kCorrelation * in.D;
  set_diagonal<T>(x, in.D, strip, [&](std::int64_t j) { return 2 * (correlation[j] - 1) / n; });
}

template <class T>
void write_terms(const CrossCorrelationFwd& p, const Forward<T>& f) {
  const GramInput& in = p.in;
  double on = 0, off = 0, diagonal = 0;
  for (std::int64_t j = 0; j < in.D; ++j) {
    const double d = p.columns[Row::kCorrelation * in.D + j];
    on += (d - 1) * (d - 1);
    diagonal += d * d;
  }
  for (std::int64_t s = 0; s < ceil_div(in.side(), kMicroCols<T>); ++s) off += f.sums[s];
  if (in.gram) off -= diagonal;
  p.terms[0] = on;
  p.terms[1] = off;
  // A float32 product of rows has an error of the size of all of ||C||^2.
  const double loss = __builtin_fabs(on + p.lambda * off);
  const double largest = __builtin_fabs(p.lambda) * diagonal;
  p.terms[2] = in.gram && sizeof(T) == 4 && kDigitsLost * loss < largest;
}

template <class T, class E>
void forward(const CrossCorrelationFwd& p) {
  Arena arena(p.workspace);
  const auto f = Forward<T>::take(arena, p);
  const GramInput& in = p.in;
  const View<E> a = standardized<E>(in, 0, p.columns), b = standardized<E>(in, 1, p.columns);
#pragma omp parallel num_threads(p.threads)
  {
    for_columns(in.D, [&](Range columns) { column_statistics<E>(p, columns); });
    compute_products<T>(in, f.products, f.count, [&](Range inner) {
      f.slab_a().load(in, a, inner);
      f.slab_b().load(in, b, inner);
    });
#pragma omp for schedule(dynamic)
    for (std::int64_t s = 0; s < ceil_div(in.side(), kMicroCols<T>); ++s) finish_strip<T>(p, f, s);
  }
  write_terms<T>(p, f);
}

// Strips of columns that a thread works on: x and y are those of the two views.
template <class T>
struct Scratch {
  Strips<T> x, y, grad, turned;

  static Scratch take(Arena& arena, const GramInput& in) {
    const std::int64_t columns = strips_at_a_time<T>(in.D) * kMicroCols<T>;
    Scratch s{};
    s.x = Strips<T>::take(arena, in.N, columns);
    s.y = Strips<T>::take(arena, in.N, in.gram ? columns : 0);
    s.grad = Strips<T>::take(arena, in.N, columns);
    s.turned = Strips<T>::take(arena, in.D, in.gram ? 0 : columns);
    return s;
  }
};

template <class T>
struct Backward {
  Strips<T> products[2];  // A and B, or C twice, scaled
  Strips<T> view;         // all of a or of b, for products of columns
  PerThread<Scratch<T>> scratch;

  static Backward take(Arena& arena, const CrossCorrelationBwd& p) {
    const GramInput& in = p.in;
    Backward w{};
    T* data = static_cast<T*>(const_cast<void*>(p.products));
    for (int v = 0; v < 2; ++v) {
      const int m = smaller(v, cross_correlation_matrices(in.gram) - 1);
      w.products[v] = Strips<T>::at_address(data + m * gram_elements(in.side()), in.side());
    }
    w.view = Strips<T>::take(arena, in.N, in.gram ? 0 : in.D);
    w.scratch = PerThread<Scratch<T>>::take(arena, p.threads, in);
    return w;
  }
};

// Writes strips of the gradient of one view from v, its gradient after standardisation: without
// b diag(h) with products of rows.
template <class T, class E>
void write_gradient(const CrossCorrelationBwd& p, int view, Range strips, const Strips<T>& x,
                    const Strips<T>& y, const Strips<T>& v) {
  constexpr int NR = kMicroCols<T>;
  const GramInput& in = p.in;
  E* grad = static_cast<E*>(p.grad_z[view]);
  for (std::int64_t s = strips.begin; s < strips.end; ++s) {
    const std::int64_t k = s - strips.begin;
    const StripMeans<T> means(v.at(0, k), x.at(0, k), in.N);
    StripGradient<T> factors;
    for (int c = 0; c < smaller(NR, in.D - s * NR); ++c) {
      const double d = p.columns[Row::kCorrelation * in.D + s * NR + c];
      const double scale = *p.grad_loss * p.columns[(Row::kScale + view) * in.D + s * NR + c];
      const double h = in.gram ? (2 * (d - 1) - 2 * p.lambda * d) / double(in.N) : 0.0;
      factors.of_v[c] = T(scale);
      factors.mean[c] = T(means.value[c]);
      factors.of_x[c] = T(-scale * (means.product[c] + h * d));
      factors.of_y[c] = T(scale * h);
    }
    factors.write(v.at(0, k), x.at(0, k), y.at(0, k), in.N, in.D, s, grad);
  }
}

template <class T, class E>
void backward_rows(const CrossCorrelationBwd& p, const Backward<T>& w, const Scratch<T>& scratch,
                   Range strips) {
  const GramInput& in = p.in;
  const Strips<T>* views[] = {&scratch.x, &scratch.y};
  for (int v = 0; v < 2; ++v) {
    pack_strips<T, E>(standardized<E>(in, v, p.columns), strips, *views[v]);
  }
  for (int v = 0; v < 2; ++v) {
    if (p.grad_z[v] == nullptr) continue;
    const Strips<T>&x = *views[v], &y = *views[1 - v];
    multiply_strips<T>(w.products[1 - v], x, scratch.grad, in.N, strips.count(), in.N);
    write_gradient<T, E>(p, v, strips, x, y, scratch.grad);
  }
}

// Of view v alone; w.view is all of the other.
template <class T, class E>
void backward_columns(const CrossCorrelationBwd& p, const Backward<T>& w, const Scratch<T>& scratch,
                      int v, Range strips) {
  const GramInput& in = p.in;
  const Strips<T>& c = w.products[0];
  pack_strips<T, E>(standardized<E>(in, v, p.columns), strips, scratch.x);
  if (v == 0) transpose_strips<T>(c, in.D, strips, scratch.turned);
  multiply_strips<T>(w.view, v == 1 ? c.from(strips.begin) : scratch.turned, scratch.grad, in.N,
                     strips.count(), in.D);
  write_gradient<T, E>(p, v, strips, scratch.x, w.view.from(strips.begin), scratch.grad);
}

template <class T, class E>
void backward(const CrossCorrelationBwd& p) {
  Arena arena(p.workspace);
  const auto w = Backward<T>::take(arena, p);
  const GramInput& in = p.in;
#pragma omp parallel num_threads(p.threads)
  {
    const auto scratch = w.scratch.of_thread(thread_number(), in);
    if (in.gram) {
      for_strips<T>(in.D, [&](Range strips) { backward_rows<T, E>(p, w, scratch, strips); });
    }
    for (int v = 0; !in.gram && v < 2; ++v) {
      if (p.grad_z[v] == nullptr) continue;
      pack_view<T, E>(standardized<E>(in, 1 - v, p.columns), w.view);
      for_strips<T>(in.D, [&](Range strips) { backward_columns<T, E>(p, w, scratch, v, strips); });
    }
  }
}

}  // namespace

std::int64_t cross_correlation_fwd_workspace(const CrossCorrelationFwd& p) {
  Arena arena(nullptr);
  with_gram_types(p.in, [&]<class T, class E>() { Forward<T>::take(arena, p); });
  return arena.used();
}

std::int64_t cross_correlation_bwd_workspace(const CrossCorrelationBwd& p) {
  Arena arena(nullptr);
  with_gram_types(p.in, [&]<class T, class E>() { Backward<T>::take(arena, p); });
  return arena.used();
}

void cross_correlation_fwd(const CrossCorrelationFwd& p) {
  with_gram_types(p.in, [&]<class T, class E>() { forward<T, E>(p); });
}

void cross_correlation_bwd(const CrossCorrelationBwd& p) {
  with_gram_types(p.in, [&]<class T, class E>() { backward<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, cross_correlation_fwd_workspace, const CrossCorrelationFwd&)
SSLKERN_ENTRY(std::int64_t, cross_correlation_bwd_workspace, const CrossCorrelationBwd&)
SSLKERN_ENTRY(void, cross_correlation_fwd, const CrossCorrelationFwd&)
SSLKERN_ENTRY(void, cross_correlation_bwd, const CrossCorrelationBwd&)
