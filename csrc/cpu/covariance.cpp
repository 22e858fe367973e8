// VICReg on the CPU. Floor: 3 min(N, D)^2 max(N, D) operations for each view, half of the products
// of one side of the batch (they are symmetric) and what they give the gradient. What is left above
// the floor: reading the views three times (statistics, products, gradients), and where N is little
// the transposition of squares of 32 x 32.
#include "contract/covariance.h"

#include "cpu/dtype.h"
#include "cpu/gram.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

using Row = CovarianceColumns;

// A row of the statistics of view v.
template <class P>
auto* row_of(const P& p, int v, int row) {
  return p.columns + (v * Row::kRows + row) * p.of.in.D;
}

// View v, centered and scaled.
template <class E, class P>
View<E> centered(const P& p, int v) {
  return view_of<E>(p.of.in, v, row_of(p, v, Row::kMean), row_of(p, v, Row::kScale));
}

// |x_j|^2 of a column of view v.
template <class P>
double squared_norm(const P& p, int v, std::int64_t j) {
  const double scale = row_of(p, v, Row::kScale)[j];
  return row_of(p, v, Row::kVariance)[j] * double(p.of.in.N - 1) * scale * scale;
}

template <class E>
void column_statistics(const CovarianceFwd& p, Range columns, double* distance) {
  const GramInput& in = p.of.in;
  for (int v = 0; v < p.of.views(); ++v) {
    double squares[kMostColumns];
    const auto row = [&](int k) { return row_of(p, v, k) + columns.begin; };
    column_moments<E>(centered<E>(p, v), columns, row(Row::kMean), squares);
    for (int c = 0; c < columns.count(); ++c) {
      const double norm = __builtin_sqrt(squares[c]);
      row(Row::kVariance)[c] = squares[c] / double(in.N - 1);
      row(Row::kScale)[c] = !p.of.normalize ? 1.0 : norm < kNormEps ? 0.0 : 1 / norm;
    }
  }
  if (p.of.views() == 1) return;
  const auto squared_difference = [](double a, double b, int) { return (a - b) * (a - b); };
  column_pair_sums<E>(in, columns, squared_difference, distance + columns.begin);
}

template <class T>
struct Forward {
  Product<T> products[2];
  double* sums;      // (views, strips)
  double* distance;  // (D)

  static Forward take(Arena& arena, const CovarianceFwd& p) {
    Forward f{};
    const GramInput& in = p.of.in;
    f.distance = arena.take<double>(in.D);
    if (!p.of.covariance) return f;
    T* data = static_cast<T*>(p.products);
    for (int v = 0; v < p.of.views(); ++v) {
      const Slab<T> slab = Slab<T>::take(arena, in);
      const auto result = Strips<T>::at_address(data + v * gram_elements(in.side()), in.side());
      f.products[v] = {result, slab, slab, true};
    }
    f.sums = arena.take<double>(p.of.views() * strips(in));
    return f;
  }

  static std::int64_t strips(const GramInput& in) { return ceil_div(in.side(), kMicroCols<T>); }
};

// The sum of squares of a strip, with products of rows also over the diagonal; makes of the
// products what the backward pass reads.
template <class T>
void finish_strip(const CovarianceFwd& p, const Forward<T>& f, int v, std::int64_t strip) {
  const GramInput& in = p.of.in;
  const Strips<T>& s = f.products[v].result;
  if (!in.gram) set_diagonal<T>(s, in.D, strip, [](std::int64_t) { return 0.0; });
  f.sums[v * Forward<T>::strips(in) + strip] = strip_sum<T>(s, s, in.side(), strip, true);
  if (p.keep) scale_strip<T>(s, in.side(), strip, 4 * p.of.unit(), true);
}

// The sum over the views; says whether that of any view is a small difference of float32 products,
// whose error is of the size of all of ||G||^2.
template <class T>
double covariance_term(const CovarianceFwd& p, const Forward<T>& f, bool& digits_lost) {
  const GramInput& in = p.of.in;
  double sum = 0;
  for (int v = 0; v < p.of.views(); ++v) {
    const double* sums = f.sums + v * Forward<T>::strips(in);
    double off = 0, diagonal = 0;
    for (std::int64_t s = 0; s < Forward<T>::strips(in); ++s) off += sums[s];
    for (std::int64_t j = 0; in.gram && j < in.D; ++j) {
      const double squared = squared_norm(p, v, j);
      diagonal += squared * squared;
    }
    off -= diagonal;
    digits_lost |= in.gram && sizeof(T) == 4 && kDigitsLost * off < diagonal;
    sum += off;
  }
  return p.of.unit() * sum;
}

template <class T>
void write_terms(const CovarianceFwd& p, const Forward<T>& f) {
  const GramInput& in = p.of.in;
  double distance = 0, variance = 0;
  for (std::int64_t j = 0; p.of.views() == 2 && j < in.D; ++j) distance += f.distance[j];
  for (int v = 0; v < p.of.views(); ++v) {
    for (std::int64_t j = 0; j < in.D; ++j) {
      const double deviation = __builtin_sqrt(row_of(p, v, Row::kVariance)[j] + p.of.eps);
      variance += deviation >= 1 ? 0.0 : 1 - deviation;  // NaN stays NaN
    }
  }
  bool digits_lost = false;
  p.terms[0] = distance / (double(in.N) * double(in.D));
  p.terms[1] = variance / double(in.D);
  p.terms[2] = p.of.covariance ? covariance_term<T>(p, f, digits_lost) : 0.0;
  p.terms[3] = digits_lost;
}

template <class T, class E>
void forward(const CovarianceFwd& p) {
  Arena arena(p.workspace);
  const auto f = Forward<T>::take(arena, p);
  const GramInput& in = p.of.in;
  const int views = p.of.views();
#pragma omp parallel num_threads(p.threads)
  {
    for_columns(in.D, [&](Range columns) { column_statistics<E>(p, columns, f.distance); });
    if (p.of.covariance) {
      compute_products<T>(in, f.products, views, [&](Range inner) {
        for (int v = 0; v < views; ++v) f.products[v].left.load(in, centered<E>(p, v), inner);
      });
      const std::int64_t strips = Forward<T>::strips(in);
#pragma omp for schedule(dynamic)
      for (std::int64_t s = 0; s < views * strips; ++s) {
        finish_strip<T>(p, f, int(s / strips), s % strips);
      }
    }
  }
  write_terms<T>(p, f);
}

// Strips of columns that a thread works on.
template <class T>
struct Scratch {
  Strips<T> x, difference, grad;  // of one view; z_a - z_b; grad_x

  static Scratch take(Arena& arena, const CovarianceInput& of) {
    const std::int64_t columns = strips_at_a_time<T>(of.in.D) * kMicroCols<T>;
    Scratch s{};
    s.x = Strips<T>::take(arena, of.in.N, columns);
    s.difference = Strips<T>::take(arena, of.in.N, of.views() == 2 ? columns : 0);
    s.grad = Strips<T>::take(arena, of.in.N, of.covariance ? columns : 0);
    return s;
  }
};

template <class T>
struct Backward {
  Strips<T> products[2];  // scaled
  Strips<T> view;         // all of x of one view, for products of columns
  PerThread<Scratch<T>> scratch;

  static Backward take(Arena& arena, const CovarianceBwd& p) {
    const GramInput& in = p.of.in;
    Backward w{};
    T* data = static_cast<T*>(const_cast<void*>(p.products));
    for (int v = 0; p.of.covariance && v < p.of.views(); ++v) {
      w.products[v] = Strips<T>::at_address(data + v * gram_elements(in.side()), in.side());
    }
    w.view = Strips<T>::take(arena, in.N, packs_all(p.of) ? in.D : 0);
    w.scratch = PerThread<Scratch<T>>::take(arena, p.threads, p.of);
    return w;
  }
  static bool packs_all(const CovarianceInput& of) { return of.covariance && !of.in.gram; }
};

// What a column of view v has from its own variance: the factor of z_j - mean_j.
double variance_slope(const CovarianceBwd& p, int v, std::int64_t j) {
  const double deviation = __builtin_sqrt(row_of(p, v, Row::kVariance)[j] + p.of.eps);
  const double slope = -1 / (double(p.of.in.D) * double(p.of.in.N - 1) * deviation);
  return deviation >= 1 ? 0.0 : *p.grad_loss * p.variance * slope;
}

// The factors of column c of a strip; `means` are those of grad_x, with products of rows without
// x diag(|x_j|^2).
template <class T>
void set_factors(const CovarianceBwd& p, int v, std::int64_t j, int c, const StripMeans<T>* means,
                 StripGradient<T>& factors) {
  const GramInput& in = p.of.in;
  const double scale = row_of(p, v, Row::kScale)[j];
  double of_x = scale == 0 ? 0.0 : variance_slope(p, v, j) / scale;
  if (means != nullptr) {
    const double squared = squared_norm(p, v, j), up = *p.grad_loss * p.covariance * scale;
    const double own = in.gram ? 4 * p.of.unit() * squared : 0.0;
    const double along = double(in.N) * means->product[c] - own * squared;
    of_x -= up * (own + (p.of.normalize ? along : 0.0));
    factors.of_v[c] = T(up);
    factors.mean[c] = T(means->value[c]);
  }
  factors.of_x[c] = T(of_x);
  const double both = 2 * *p.grad_loss * p.invariance / (double(in.N) * double(in.D));
  factors.of_y[c] = p.of.views() == 1 ? T(0) : T(v == 0 ? both : -both);
}

// Writes strips of the gradient of view v; `grad` is not read without covariance.
template <class T, class E>
void write_gradient(const CovarianceBwd& p, int v, Range strips, const Strips<T>& x,
                    const Strips<T>& difference, const Strips<T>& grad) {
  constexpr int NR = kMicroCols<T>;
  const GramInput& in = p.of.in;
  const Strips<T>& y = p.of.views() == 2 ? difference : x;
  const Strips<T>& of = p.of.covariance ? grad : x;
  for (std::int64_t s = strips.begin; s < strips.end; ++s) {
    const std::int64_t k = s - strips.begin;
    const StripMeans<T> means(of.at(0, k), x.at(0, k), in.N);
    StripGradient<T> factors;
    for (int c = 0; c < smaller(NR, in.D - s * NR); ++c) {
      set_factors<T>(p, v, s * NR + c, c, p.of.covariance ? &means : nullptr, factors);
    }
    factors.write(of.at(0, k), x.at(0, k), y.at(0, k), in.N, in.D, s, static_cast<E*>(p.grad_z[v]));
  }
}

template <class T, class E>
void backward_strips(const CovarianceBwd& p, const Backward<T>& w, const Scratch<T>& scratch, int v,
                     Range strips) {
  const GramInput& in = p.of.in;
  const bool packed = Backward<T>::packs_all(p.of);
  const Strips<T> x = packed ? w.view.from(strips.begin) : scratch.x;
  if (!packed) pack_strips<T, E>(centered<E>(p, v), strips, x);
  if (p.of.views() == 2) pack_difference<T, E>(in, strips, scratch.difference);
  if (packed) {
    multiply_strips<T>(w.view, w.products[v].from(strips.begin), scratch.grad, in.N, strips.count(),
                       in.D);
  } else if (p.of.covariance) {
    multiply_strips<T>(w.products[v], x, scratch.grad, in.N, strips.count(), in.N);
  }
  write_gradient<T, E>(p, v, strips, x, scratch.difference, scratch.grad);
}

template <class T, class E>
void backward(const CovarianceBwd& p) {
  Arena arena(p.workspace);
  const auto w = Backward<T>::take(arena, p);
#pragma omp parallel num_threads(p.threads)
  {
    const auto scratch = w.scratch.of_thread(thread_number(), p.of);
    for (int v = 0; v < p.of.views(); ++v) {
      if (p.grad_z[v] == nullptr) continue;
      if (Backward<T>::packs_all(p.of)) pack_view<T, E>(centered<E>(p, v), w.view);
      for_strips<T>(p.of.in.D,
                    [&](Range strips) { backward_strips<T, E>(p, w, scratch, v, strips); });
    }
  }
}

}  // namespace

std::int64_t covariance_fwd_workspace(const CovarianceFwd& p) {
  Arena arena(nullptr);
  with_gram_types(p.of.in, [&]<class T, class E>() { Forward<T>::take(arena, p); });
  return arena.used();
}

std::int64_t covariance_bwd_workspace(const CovarianceBwd& p) {
  Arena arena(nullptr);
  with_gram_types(p.of.in, [&]<class T, class E>() { Backward<T>::take(arena, p); });
  return arena.used();
}

void covariance_fwd(const CovarianceFwd& p) {
  with_gram_types(p.of.in, [&]<class T, class E>() { forward<T, E>(p); });
}

void covariance_bwd(const CovarianceBwd& p) {
  with_gram_types(p.of.in, [&]<class T, class E>() { backward<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, covariance_fwd_workspace, const CovarianceFwd&)
SSLKERN_ENTRY(std::int64_t, covariance_bwd_workspace, const CovarianceBwd&)
SSLKERN_ENTRY(void, covariance_fwd, const CovarianceFwd&)
SSLKERN_ENTRY(void, covariance_bwd, const CovarianceBwd&)
