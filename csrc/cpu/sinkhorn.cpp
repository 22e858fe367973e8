// Sinkhorn-Knopp on the CPU. Floor: T reads of the scores for T iterations, one more read and a
// write for the plan. An iteration is one pass: a row gets its f from the g before it, and what it
// then assigns is added to the sums for the next g while it is in L1.
//
// Where exponentials are the limit and not memory they are computed once: into the memory that is
// there for them, mostly the plan's, if all of them fit the range of the type (they do at epsilon
// 0.05 and cosines). Else the passes compute them again, in the log domain.
#include "contract/sinkhorn.h"

#include "cpu/dtype.h"
#include "cpu/linear_domain.h"
#include "cpu/log_domain.h"
#include "cpu/team.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

// Exponents in base 2 of exponentials that fit: potentials then stay far from the limits of
// float32, too.
constexpr double kLeastExponent = -60, kMostExponent = 20;

// Prototypes whose potentials are computed together, whole vectors of any type.
constexpr std::int64_t kPart = 256;

// What a team needs, of both domains.
template <class T, class E>
struct Solver {
  LogDomain<T, E> log;
  LinearDomain<T, E> linear;
  double* f;               // (n) in base 2; null without a tolerance
  T* max;                  // (chunks, K)
  T* sum;                  // (chunks, K)
  double* moved;           // (chunks) how far f has moved
  double* entropy;         // (chunks) of the plan; the team may still be reading `moved`
  std::int32_t* too_wide;  // (1) exponentials do not fit

  static Solver take(Arena& arena, const Sinkhorn& p) {
    const std::int64_t rows = p.B + p.L, chunks = Chunks::of(rows).count;
    Solver s{};
    s.log = LogDomain<T, E>::take(arena, p.K);
    s.linear = LinearDomain<T, E>::take(arena, p.K);
    s.f = p.tolerance > 0 ? arena.take<double>(rows) : nullptr;
    s.max = arena.take<T>(chunks * padded(p.K));
    s.sum = arena.take<T>(chunks * padded(p.K));
    s.moved = arena.take<double>(chunks);
    s.entropy = arena.take<double>(chunks);
    s.too_wide = arena.take<std::int32_t>(1);
    return s;
  }
};

// What a thread needs.
template <class T>
struct Scratch {
  AssignedRow<T> assigned[kGroup];
  LinearRow<T> linear[kGroup];

  static Scratch take(Arena& arena, std::int64_t K) {
    Scratch s{};
    for (auto& row : s.assigned) row = AssignedRow<T>::take(arena, K);
    for (auto& row : s.linear) row = LinearRow<T>::take(arena, K);
    return s;
  }

  template <class Row>
  Row* rows() {
    if constexpr (kSame<Row, LinearRow<T>>) {
      return linear;
    } else {
      return assigned;
    }
  }
};

// One problem, as one thread of its team sees it.
template <class T, class E>
struct Problem {
  const Sinkhorn& p;
  std::int64_t number;
  Team& team;
  Solver<T, E> s;
  Scratch<T> scratch;
  ProblemRows<E> rows;
  Chunks chunks;

  T* sum(std::int64_t c) const { return s.sum + c * padded(p.K); }
  T* max(std::int64_t c) const { return s.max + c * padded(p.K); }
  E* plan_row(std::int64_t i) const {
    return static_cast<E*>(p.results.plan) + number * p.results.stride_plan_problem +
           i * p.results.stride_plan_row;
  }
  E* kept_row(std::int64_t i) const {
    return static_cast<E*>(p.kept.data) + number * p.kept.stride_problem + i * p.kept.stride_row;
  }
  // The mass that a prototype is to get, in the unit of those of the rows.
  double wanted(std::int64_t k) const {
    const double share = p.marginal == nullptr ? 1.0 / double(p.K) : p.marginal[number * p.K + k];
    return share * double(rows.n);
  }

  template <class F>
  void each_chunk(const F& f) {
    team.each(chunks.count, f);
    team.wait();
  }
  // f(begin, end) for parts of the prototypes.
  template <class F>
  void each_part(const F& f) {
    team.each(ceil_div(p.K, kPart), [&](std::int64_t i) __attribute__((always_inline)) {
      f(i * kPart, smaller((i + 1) * kPart, p.K));
    });
    team.wait();
  }
};

template <class T>
void clear(T* sum, std::int64_t K) {
  for (std::int64_t k = 0; k < padded(K); ++k) sum[k] = T(0);
}

// ---- potentials

// What prototypes [begin, end) should get over what they got; infinity or NaN where that is
// nothing.
template <class T, class E>
void set_ratio(const Problem<T, E>& q, std::int64_t begin, std::int64_t end, double* total) {
  for (std::int64_t k = begin; k < end; ++k) total[k - begin] = q.wanted(k) / total[k - begin];
}

template <class T, class E, class Domain>
void first_potentials(Problem<T, E>& q, const Domain& domain) {
  q.each_part([&](std::int64_t begin, std::int64_t end) {
    alignas(kVectorBytes) T shift[kPart], total[kPart];
    alignas(kVectorBytes) double ratio[kPart] = {};
    for (std::int64_t k = begin; k < end; k += kWidth<T>) {
      store(total + (k - begin), domain.first_total(q.s.max + k, q.s.sum + k, padded(q.p.K),
                                                    q.chunks.count, shift + (k - begin)));
    }
    for (std::int64_t k = begin; k < end; ++k) ratio[k - begin] = double(total[k - begin]);
    set_ratio(q, begin, end, ratio);
    domain.first(begin, end, ratio, shift);
    if (end == q.p.K) domain.pad(end);
  });
}

template <class T, class E, class Domain>
void next_potentials(Problem<T, E>& q, const Domain& domain) {
  q.each_part([&](std::int64_t begin, std::int64_t end) {
    alignas(kVectorBytes) double ratio[kPart] = {};
    for (std::int64_t c = 0; c < q.chunks.count; ++c) {
      const T* sum = q.sum(c) + begin;
      for (std::int64_t k = 0; k < end - begin; ++k) ratio[k] += double(sum[k]);
    }
    set_ratio(q, begin, end, ratio);
    domain.next(begin, end, ratio);
    if (end == q.p.K) domain.pad(end);
  });
}

// ---- iterations

// Assigns the rows of a chunk, and adds up what each prototype gets.
template <class T, class E, class Domain>
void assign_chunk(Problem<T, E>& q, const Domain& domain, const ProblemRows<E>& rows,
                  std::int64_t c) {
  auto* const assigned = q.scratch.template rows<typename Domain::Row>();
  double moved = 0;
  clear(q.sum(c), q.p.K);
  for_groups<kGroup>(
      rows, q.chunks.begin(c), q.chunks.end(c),
      [&](const std::int64_t* index, const E* const* row, const double* mass, int present) {
        double f[kGroup];
        domain.assign(row, mass, present, q.p.K, assigned, f);
        domain.add(assigned, present, q.p.K, q.sum(c));
        if (q.s.f == nullptr) return;
        for (int r = 0; r < present; ++r) {
          double& before = q.s.f[index[r]];
          moved += __builtin_fabs(__builtin_exp2(before - f[r]) - 1.0);
          before = f[r];
        }
      });
  q.s.moved[c] = moved;
}

template <class T, class E>
bool has_settled(const Problem<T, E>& q) {
  if (q.s.f == nullptr) return false;
  double moved = 0;
  for (std::int64_t c = 0; c < q.chunks.count; ++c) moved += q.s.moved[c];
  return moved < q.p.tolerance;
}

// From potentials that are there; `done` iterations have led to them.
template <class T, class E, class Domain>
void iterate(Problem<T, E>& q, const Domain& domain, const ProblemRows<E>& rows,
             std::int64_t done) {
  for (std::int64_t t = done; t < q.p.iterations; ++t) {
    q.each_chunk([&](std::int64_t c) { assign_chunk<T, E>(q, domain, rows, c); });
    if (has_settled(q)) break;
    next_potentials<T, E>(q, domain);
  }
}

// The first sums, of columns of X.
template <class T, class E, class Domain>
void sum_columns(Problem<T, E>& q, const Domain& domain) {
  auto* const buffers = q.scratch.template rows<typename Domain::Row>();
  q.each_chunk([&](std::int64_t c) {
    clear(q.sum(c), q.p.K);
    domain.first_sums(q.rows, q.chunks.begin(c), q.chunks.end(c), q.p.K, buffers, q.max(c),
                      q.sum(c));
  });
}

// ---- exponentials that are kept

// e = 2^(a (s - shift)) of kGroup rows, and their part of the sums of columns.
template <class T>
SSLKERN_INLINE void exponentiate(const T* const* s, T* const* e, std::int64_t count, T a, T shift,
                                 const T* mass, int ahead, T* sum, Vec<T>& least, Vec<T>& most) {
  for (std::int64_t k = 0; k < count; k += kWidth<T>) {
    Vec<T> total{};
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; ++r) {
      __builtin_prefetch(s[r] + k + ahead);
      const Vec<T> x = (load_unaligned(s[r] + k) - splat(shift)) * splat(a);
      least = least < x ? least : x;
      most = most > x ? most : x;
      const Vec<T> power = exp2_in_range<T>(x);
      store_unaligned(e[r] + k, power);
      total += weighted<T>(splat(mass[r]), power);
    }
    store(sum + k, load(sum + k) + total);
  }
}

// Rows of a chunk into the memory for them. False if they do not fit.
template <class T>
bool exponentiate_chunk(Problem<T, T>& q, std::int64_t c, T a, T shift) {
  const std::int64_t whole = q.p.K / kWidth<T> * kWidth<T>, rest = q.p.K - whole;
  Vec<T> least = splat(T(0)), most = least;
  clear(q.sum(c), q.p.K);
  for (std::int64_t i = q.chunks.begin(c); i < q.chunks.end(c); i += kGroup) {
    alignas(kVectorBytes) T tail[kGroup][kWidth<T>];
    const T *s[kGroup], *s_tail[kGroup];
    T *e[kGroup], *e_tail[kGroup], mass[kGroup];
    for (int r = 0; r < kGroup; ++r) {
      // Rows beyond the last are the first of the group again, without a mass.
      const std::int64_t row = i + r < q.chunks.end(c) ? i + r : i;
      mass[r] = row == i + r ? T(q.rows.mass(row)) : T(0);
      s[r] = q.rows.row(row);
      e[r] = q.kept_row(row);
      s_tail[r] = e_tail[r] = tail[r];
      for (std::int64_t k = 0; k < kWidth<T>; ++k) tail[r][k] = k < rest ? s[r][whole + k] : shift;
    }
    exponentiate<T>(s, e, whole, a, shift, mass, kRowBlock / 2, q.sum(c), least, most);
    if (rest == 0) continue;
    exponentiate<T>(s_tail, e_tail, kWidth<T>, a, shift, mass, 0, q.sum(c) + whole, least, most);
    for (int r = 0; r < kGroup; ++r) {
      for (std::int64_t k = 0; k < rest; ++k) e[r][whole + k] = tail[r][k];
    }
  }
  bool fits = true;
  for (int l = 0; l < kWidth<T>; ++l) {
    fits &= double(least[l]) >= kLeastExponent && double(most[l]) <= kMostExponent;
  }
  return fits;
}

// Tries to keep X, but for a factor, and sums its columns.
template <class T>
bool keep_exponentials(Problem<T, T>& q, T shift) {
  const T a = q.s.log.g.a;
  q.each_chunk([&](std::int64_t c) {
    if (__atomic_load_n(q.s.too_wide, __ATOMIC_RELAXED) != 0) return;
    if (!exponentiate_chunk<T>(q, c, a, shift)) __atomic_store_n(q.s.too_wide, 1, __ATOMIC_RELAXED);
  });
  return *q.s.too_wide == 0;
}

// ---- the plan

// Adds a row to what its chunk has assigned; returns its entropy.
template <class T, class Domain, class Row>
double add_to_usage(const Domain& domain, const Row& row, std::int64_t K, T* usage) {
  Vec<T> bits{};
  for (std::int64_t k = 0; k < K; k += kWidth<T>) {
    const Vec<T> share = domain.share(row, k);
    store(usage + k, load(usage + k) + share);
    bits -= weighted<T>(share, log2_positive<T>(share));
  }
  return double(horizontal_sum<T>(bits)) * kLn2;
}

template <class T, class E, class Domain, class Row>
void write_shares(const Domain& domain, const Row& row, std::int64_t K, E* out) {
  alignas(kVectorBytes) T buffer[kRowBlock];
  for (std::int64_t first = 0; first < K; first += kRowBlock) {
    const int count = int(smaller(kRowBlock, K - first));
    T* block = result_block<T>(out + first, count, buffer);
    for (int k = 0; k < count; k += kWidth<T>) {
      store_unaligned(block + k, domain.share(row, first + k));
    }
    write_block<T>(block, count, out + first);
  }
}

// The place of the largest share, the first of equal ones.
template <class T, class Domain, class Row>
std::int64_t place_of_largest(const Domain& domain, const Row& row, std::int64_t K) {
  Vec<T> best = splat(T(0));
  for (std::int64_t k = 0; k < K; k += kWidth<T>) best = maximum<T>(domain.share(row, k), best);
  const T largest = horizontal_max<T>(best);
  for (std::int64_t k = 0; k < K; k += kWidth<T>) {
    const Vec<T> share = domain.share(row, k);
    for (int l = 0; l < kWidth<T>; ++l) {
      if (share[l] == largest) return k + l;
    }
  }
  return 0;
}

// Where f is not finite the row is not either.
template <class T, class E, class Domain, class Row>
void write_choice(const Domain& domain, const Row& row, double f, std::int64_t K, E* out) {
  const bool finite = __builtin_fabs(f) <= __DBL_MAX__;
  const E rest = math::Rounded<E>::from(finite ? T(0) : T(__builtin_nan("")));
  const std::int64_t place = finite ? place_of_largest<T>(domain, row, K) : -1;
  for (std::int64_t k = 0; k < K; ++k) out[k] = rest;
  if (finite) out[place] = math::Rounded<E>::from(T(1));
}

template <class T, class E, class Domain>
void write_chunk(Problem<T, E>& q, const Domain& domain, const ProblemRows<E>& rows,
                 std::int64_t c) {
  const SinkhornResults& out = q.p.results;
  auto* const assigned = q.scratch.template rows<typename Domain::Row>();
  const std::int64_t K = q.p.K, end = smaller(q.chunks.end(c), q.p.B);
  double entropy = 0;
  if (out.usage != nullptr) clear(q.sum(c), K);
  for (std::int64_t i = q.chunks.begin(c); i < end; i += kGroup) {
    const int present = int(smaller(kGroup, end - i));
    const E* row[kGroup];
    double mass[kGroup], f[kGroup];
    for (int r = 0; r < present; ++r) row[r] = rows.row(i + r), mass[r] = 1;
    domain.assign(row, mass, present, K, assigned, f);
    for (int r = 0; r < present; ++r) {
      if (out.row_potential != nullptr) out.row_potential[q.number * q.p.B + i + r] = f[r] * kLn2;
      if (out.usage != nullptr) entropy += add_to_usage<T>(domain, assigned[r], K, q.sum(c));
      if (out.plan == nullptr) continue;
      q.p.hard ? write_choice<T>(domain, assigned[r], f[r], K, q.plan_row(i + r))
               : write_shares<T>(domain, assigned[r], K, q.plan_row(i + r));
    }
  }
  q.s.entropy[c] = entropy;
}

// Means over the rows of the batch.
template <class T, class E>
void summarize(Problem<T, E>& q) {
  const double rows = double(q.p.B);
  q.each_part([&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      double total = 0;
      for (std::int64_t c = 0; c < q.chunks.count && q.chunks.begin(c) < q.p.B; ++c) {
        total += double(q.sum(c)[k]);
      }
      q.p.results.usage[q.number * q.p.K + k] = total / rows;
    }
  });
  if (!q.team.leads()) return;
  double entropy = 0;
  for (std::int64_t c = 0; c < q.chunks.count; ++c) entropy += q.s.entropy[c];
  q.p.results.entropy[q.number] = entropy / rows;
}

// `shift`: of the exponents that the potentials go with, in base 2.
template <class T, class E, class Domain>
void finish(Problem<T, E>& q, const Domain& domain, const ProblemRows<E>& rows, double shift) {
  const SinkhornResults& out = q.p.results;
  if (q.p.results.potential != nullptr) {
    double* const potential = q.p.results.potential + q.number * q.p.K;
    q.each_part([&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) {
        potential[k] = (domain.potential(k) - shift) * kLn2;
      }
    });
  }
  if (out.plan == nullptr && out.row_potential == nullptr && out.usage == nullptr) return;
  q.each_chunk([&](std::int64_t c) { write_chunk<T, E>(q, domain, rows, c); });
  if (out.usage != nullptr) summarize<T, E>(q);
  q.team.wait();
}

// The potentials that are given, or 0.
template <class T, class E, class Domain>
void start(Problem<T, E>& q, const Domain& domain) {
  const double* const given = q.p.start == nullptr ? nullptr : q.p.start + q.number * q.p.K;
  q.each_part([&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      domain.start(k, given == nullptr ? 0.0 : given[k] * kLog2E);
    }
    if (end == q.p.K) domain.pad(end);
  });
}

template <class T, class E, class Domain>
void solve_with(Problem<T, E>& q, const Domain& domain) {
  const bool sums_first = q.p.start == nullptr && q.p.iterations > 0;
  if (sums_first) {
    sum_columns<T, E>(q, domain);
    first_potentials<T, E>(q, domain);
  } else {
    start<T, E>(q, domain);
  }
  iterate<T, E>(q, domain, q.rows, sums_first ? 1 : 0);
  finish<T, E>(q, domain, q.rows, 0.0);
}

template <class T>
T largest_of_row(const T* row, std::int64_t K) {
  T best = kLowest<T>;
  for (std::int64_t k = 0; k < K; ++k) best = row[k] > best ? row[k] : best;
  return best;
}

template <class T, class E>
void solve(Problem<T, E> q) {
  if (q.p.probabilities) return solve_with<T, E>(q, q.s.linear);
  const double a = kLog2E / q.p.epsilon;
  q.s.log.g.a = T(a);
  if constexpr (kSame<T, E>) {
    const bool keeps = q.p.kept.data != nullptr;
    const T shift = keeps ? largest_of_row<T>(q.rows.row(0), q.p.K) : T(0);
    if (keeps && keep_exponentials<T>(q, shift)) {
      const auto kept = q.rows.moved_to(q.kept_row(0), q.p.kept.stride_row);
      first_potentials<T, E>(q, q.s.linear);
      iterate<T, E>(q, q.s.linear, kept, 1);
      return finish<T, E>(q, q.s.linear, kept, a * double(shift));
    }
  }
  solve_with<T, E>(q, q.s.log);
}

template <class T, class E>
struct Workspace {
  PerThread<Solver<T, E>> solvers;
  PerThread<Scratch<T>> scratch;

  static Workspace take(Arena& arena, const Sinkhorn& p) {
    const int teams = team_count(p.P, p.threads);
    return {PerThread<Solver<T, E>>::take(arena, teams, p),
            PerThread<Scratch<T>>::take(arena, p.threads, p.K)};
  }
};

// Before the first barrier of a problem: what its passes count up.
template <class T, class E>
void reset(const Problem<T, E>& q) {
  if (!q.team.leads()) return;
  *q.s.too_wide = 0;
  for (std::int64_t i = 0; q.s.f != nullptr && i < q.rows.n; ++i) q.s.f[i] = 0;
}

template <class T, class E>
void run(const Sinkhorn& p) {
  Arena arena(p.workspace);
  const auto w = Workspace<T, E>::take(arena, p);
  for_each_problem(p.P, p.threads, [&](std::int64_t problem, Team& team, int number) {
    Problem<T, E> q{p,
                    problem,
                    team,
                    w.solvers.of_thread(number, p),
                    w.scratch.of_thread(thread_number(), p.K),
                    ProblemRows<E>(p, problem),
                    Chunks::of(p.B + p.L)};
    reset<T, E>(q);
    team.wait();
    solve<T, E>(q);
  });
}

}  // namespace

std::int64_t sinkhorn_workspace(const Sinkhorn& p) {
  Arena arena(nullptr);
  p.dtype == Dtype::kFloat64 ? void(Workspace<double, double>::take(arena, p))
                             : void(Workspace<float, float>::take(arena, p));
  return arena.used();
}

void sinkhorn(const Sinkhorn& p) {
  with_types(p.dtype, [&]<class T, class E>() { run<T, E>(p); });
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, sinkhorn_workspace, const Sinkhorn&)
SSLKERN_ENTRY(void, sinkhorn, const Sinkhorn&)
