// Scores of the vectors of many orthonormal bases, on a CPU: reduced as they are made, never kept.
//
// Basis 0 is the identity, basis b > 0 has the rows of H diag(q_b), with the orthogonal Hadamard
// matrix H and signs q_b, as in BasesCode: n lines a basis, classes 2i and 2i + 1 the two ends of
// the i-th line of a task.
//
// A vector holds one coordinate, or one line, of W samples: transforms, exponentials and sums are
// the same for each of them. The first pass of a transform reads the coordinates and flips their
// signs. Further ones work on an eighth each, so that it stays in the nearest cache. The last 16
// lines are in registers: what is to be done with their scores is done there, and there begins the
// transform that goes back. Its last pass flips the signs and adds to the gradient.

#include "vectors.h"

namespace {

template <class R> struct Bases {
  const R *coordinates;  // (rows, n), `stride` numbers apart
  int64_t stride, rows, n;
  const int8_t *signs;  // (bases - 1, n)
  int64_t first, classes;
  const uint8_t *chosen;  // (lines, 2) ends that are classes, or null for all of them

  int64_t last() const { return first + (classes + 1) / 2; }
  int64_t begin() const { return first / n; }            // bases of these lines
  int64_t end() const { return (last() + n - 1) / n; }
  bool is_class(int64_t line, int64_t end) const {
    line -= first;
    return line >= 0 && 2 * line + end < classes && (!chosen || chosen[2 * line + end]);
  }
  // Whether all ends of all lines of a basis are classes.
  bool whole(int64_t basis) const {
    return !chosen && basis * n >= first && (basis + 1) * n <= first + classes / 2;
  }
};

// The transform of 2^BITS vectors, but for its factor.
template <int BITS, class R> inline __attribute__((always_inline)) void butterflies(Reals<R> *x) {
  if constexpr (BITS > 0) {
    constexpr int half = 1 << (BITS - 1);
    for (int i = 0; i < half; ++i) {
      const Reals<R> a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
    butterflies<BITS - 1, R>(x);
    butterflies<BITS - 1, R>(x + half);
  }
}

// One pass over 2^BITS parts of `step` vectors.
template <int BITS, class R> void pass(Reals<R> *x, int64_t step) {
  for (int64_t c = 0; c < step; ++c) {
    Reals<R> some[1 << BITS];
    for (int i = 0; i < 1 << BITS; ++i) some[i] = x[i * step + c];
    butterflies<BITS, R>(some);
    for (int i = 0; i < 1 << BITS; ++i) x[i * step + c] = some[i];
  }
}
template <int BITS, class R>
void first_pass(const Reals<R> *from, const R *flips, Reals<R> *x, int64_t step) {
  for (int64_t c = 0; c < step; ++c) {
    Reals<R> some[1 << BITS];
    for (int i = 0; i < 1 << BITS; ++i) some[i] = from[i * step + c] * flips[i * step + c];
    butterflies<BITS, R>(some);
    for (int i = 0; i < 1 << BITS; ++i) x[i * step + c] = some[i];
  }
}
template <int BITS, class R>
void last_pass(const Reals<R> *x, const R *flips, Reals<R> *to, int64_t step) {
  for (int64_t c = 0; c < step; ++c) {
    Reals<R> some[1 << BITS];
    for (int i = 0; i < 1 << BITS; ++i) some[i] = x[i * step + c];
    butterflies<BITS, R>(some);
    for (int i = 0; i < 1 << BITS; ++i) to[i * step + c] += some[i] * flips[i * step + c];
  }
}

// The rest of the transform of `size` vectors, a power of eight times 2^BITS, and back: `forth`
// and `back` say which of the two, and each(scores, place) is what comes between.
template <int BITS, bool forth, bool back, class R, class Each>
void blocks(Reals<R> *x, int64_t size, int64_t place, Each &each) {
  if (size == 1 << BITS) {
    Reals<R> some[1 << BITS];
    for (int i = 0; i < 1 << BITS; ++i) some[i] = x[i];
    if (forth) butterflies<BITS, R>(some);
    each(some, place);
    if (back) butterflies<BITS, R>(some);
    for (int i = 0; i < 1 << BITS; ++i) x[i] = some[i];
    return;
  }
  const int64_t step = size / 8;
  if (forth) pass<3, R>(x, step);
  for (int64_t i = 0; i < size; i += step)
    blocks<BITS, forth, back, R>(x + i, step, place + i, each);
  if (back) pass<3, R>(x, step);
}

// Sums of e^z + e^-z, of scores that need no maximum; they become e^z - e^-z.
template <class R> struct Plain {
  Reals<R> sum{};

  template <size_t COUNT> void operator()(Reals<R> (&z)[COUNT], int64_t) {
    Reals<R> total{};
    for (size_t i = 0; i < COUNT; ++i) {
      Reals<R> above, below;
      exponentials<R>(z[i], above, below);
      total += above + below;
      z[i] = above - below;
    }
    sum += total;
  }
};

// The largest score of a class; `up` and `down` are 0, or -inf for ends of lines that are none.
template <class R> struct Largest {
  const R *up, *down;
  Reals<R> largest = splat<R>(-INFINITE<R>);

  template <size_t COUNT> void operator()(Reals<R> (&z)[COUNT], int64_t place) {
    for (size_t i = 0; i < COUNT; ++i)
      largest = larger<R>(larger<R>(z[i] + up[place + i], down[place + i] - z[i]), largest);
  }
};

// The same sums of scores less the peak, and of classes only.
template <class R> struct Shifted {
  const R *up, *down;
  Reals<R> peak, sum{};

  template <size_t COUNT> void operator()(Reals<R> (&z)[COUNT], int64_t place) {
    for (size_t i = 0; i < COUNT; ++i) {
      const Reals<R> above = exponential<R>(z[i] + up[place + i] - peak);
      const Reals<R> below = exponential<R>(down[place + i] - z[i] - peak);
      sum += above + below;
      z[i] = above - below;
    }
  }
};

// W samples, or fewer, and room for what is made of them.
template <class R> struct Group {
  static constexpr int64_t W = WIDTH<R>;
  const Bases<R> &bases;
  const int64_t n, row, count;
  const double root;
  void *memory;
  Reals<R> *h, *work, *lifted;  // (n,), `h` over the root of n
  R *flips, *up, *down;         // (n,)
  Reals<R> square{};            // of the length

  Group(const Bases<R> &of, int64_t number)
      : bases(of), n(of.n), row(number * W), count(of.rows - row < W ? of.rows - row : W),
        root(std::sqrt(double(n))) {
    // Apart from each other by odd numbers of lines: powers of two compete for places in caches.
    const size_t large = size_t(n) * sizeof(Reals<R>) + 192, small = size_t(n) * sizeof(R) + 64;
    memory = std::malloc(3 * large + 3 * small + 64);
    if (!memory) return;
    char *place = static_cast<char *>(memory) + 63;
    place -= reinterpret_cast<uintptr_t>(place) % 64;
    Reals<R> **const vectors[] = {&h, &work, &lifted};
    R **const numbers[] = {&flips, &up, &down};
    for (Reals<R> **array : vectors) {
      *array = reinterpret_cast<Reals<R> *>(place);
      place += large / 64 * 64;
    }
    for (R **array : numbers) {
      *array = reinterpret_cast<R *>(place);
      place += small / 64 * 64;
    }
    read();
  }
  ~Group() { std::free(memory); }

  void read() {
    int64_t c = 0;
    for (; c + W <= n; c += W) {
      Reals<R> x[W]{};
      for (int64_t r = 0; r < count; ++r) x[r] = load(bases.coordinates + (row + r) * bases.stride + c);
      transpose(x);
      for (int64_t i = 0; i < W; ++i) h[c + i] = x[i];
    }
    for (; c < n; ++c) {
      h[c] = Reals<R>{};
      for (int64_t r = 0; r < count; ++r) h[c][r] = bases.coordinates[(row + r) * bases.stride + c];
    }
    for (c = 0; c < n; ++c) {
      square += h[c] * h[c];
      h[c] *= R(1 / root);
      lifted[c] = Reals<R>{};
    }
  }

  // Gradients of the samples, from those of the coordinates side by side, times a factor.
  void write(Reals<R> factor, R *gradient) {
    int64_t c = 0;
    for (; c + W <= n; c += W) {
      Reals<R> x[W];
      for (int64_t i = 0; i < W; ++i) x[i] = lifted[c + i] * factor;
      transpose(x);
      for (int64_t r = 0; r < count; ++r) store(gradient + (row + r) * n + c, x[r]);
    }
    for (; c < n; ++c)
      for (int64_t r = 0; r < count; ++r) gradient[(row + r) * n + c] = lifted[c][r] * factor[r];
  }

  // No score is above the length of the coordinates.
  bool fits_exponentials() const {
    const double limit = std::log(double(std::numeric_limits<R>::max())) - 1 - std::log(double(bases.classes));
    bool fits = true;
    for (int64_t r = 0; r < count; ++r) fits &= limit > 0 && double(square[r]) < limit * limit;
    return fits;
  }

  void choose(int64_t basis) {
    const bool whole = bases.whole(basis);
    for (int64_t c = 0; c < n && whole; ++c) up[c] = down[c] = 0;
    for (int64_t c = 0; c < n && !whole; ++c) {
      up[c] = bases.is_class(basis * n + c, 0) ? R(0) : -INFINITE<R>;
      down[c] = bases.is_class(basis * n + c, 1) ? R(0) : -INFINITE<R>;
    }
  }

  // Bits of the first pass: all where they are few, else what leaves multiples of three and four.
  int first_bits(int64_t basis) const {
    int bits = 0;
    while (basis && int64_t(1) << bits < n) ++bits;
    return bits <= 4 ? bits : bits <= 8 ? bits - 4 : (bits - 5) % 3 + 1;
  }

  void enter(int64_t basis) {
    const int64_t own = (basis - 1) * n;
    for (int64_t c = 0; c < n; ++c) flips[c] = basis ? R(bases.signs[own + c]) : R(root);
    const int bits = first_bits(basis);
    const auto run = bits == 0   ? first_pass<0, R>
                     : bits == 1 ? first_pass<1, R>
                     : bits == 2 ? first_pass<2, R>
                     : bits == 3 ? first_pass<3, R>
                                 : first_pass<4, R>;
    run(h, flips, work, n >> bits);
  }
  void leave(int64_t basis) {
    const int bits = first_bits(basis);
    const auto run = bits == 0   ? last_pass<0, R>
                     : bits == 1 ? last_pass<1, R>
                     : bits == 2 ? last_pass<2, R>
                     : bits == 3 ? last_pass<3, R>
                                 : last_pass<4, R>;
    run(work, flips, lifted, n >> bits);
  }

  template <bool forth, bool back, class Each> void visit(int64_t basis, Each &each) {
    if (!basis || n <= 16) {
      for (int64_t c = 0; c < n; ++c) blocks<0, forth, back, R>(work + c, 1, c, each);
      return;
    }
    const int64_t size = n >> first_bits(basis);
    for (int64_t c = 0; c < n; c += size) blocks<4, forth, back, R>(work + c, size, c, each);
  }
};

template <class R> struct LogSumExp {
  Bases<R> bases;
  R *sums, *gradient;  // (rows,); (rows, n), or null
  int64_t *status;

  template <bool back> void solve(Group<R> &group) const {
    const bool fixed = group.fits_exponentials();
    Reals<R> peak = splat<R>(fixed ? R(0) : std::numeric_limits<R>::lowest()), total{};
    for (int64_t basis = bases.begin(); basis < bases.end(); ++basis) {
      group.enter(basis);
      if (fixed && bases.whole(basis)) {
        Plain<R> each;
        group.template visit<true, back>(basis, each);
        total += each.sum;
      } else {
        group.choose(basis);
        Largest<R> found{group.up, group.down};
        group.template visit<true, false>(basis, found);
        const Reals<R> higher = fixed ? peak : larger<R>(found.largest, peak);
        const Reals<R> shrink = exponential<R>(peak - higher);
        total *= shrink;
        for (int64_t c = 0; back && !fixed && c < bases.n; ++c) group.lifted[c] *= shrink;
        peak = higher;
        Shifted<R> each{group.up, group.down, peak};
        group.template visit<false, back>(basis, each);
        total += each.sum;
      }
      if (back) group.leave(basis);
    }
    const Reals<R> sum = logarithm<R>(total) + peak;
    for (int64_t r = 0; r < group.count; ++r) sums[group.row + r] = sum[r];
    if (back) group.write(R(1 / group.root) / total, gradient);
  }

  void operator()(int64_t number) const {
    Group<R> group(bases, number);
    if (!group.memory)
      __atomic_store_n(status, NO_MEMORY, __ATOMIC_RELAXED);
    else if (gradient)
      solve<true>(group);
    else
      solve<false>(group);
  }
};

template <class R> struct Best {
  Bases<R> bases;
  R *best;  // (bases of these lines, rows)
  int64_t *status;

  void operator()(int64_t number) const {
    Group<R> group(bases, number);
    if (!group.memory) {
      __atomic_store_n(status, NO_MEMORY, __ATOMIC_RELAXED);
      return;
    }
    for (int64_t basis = bases.begin(); basis < bases.end(); ++basis) {
      group.enter(basis);
      group.choose(basis);
      Largest<R> each{group.up, group.down};
      group.template visit<true, false>(basis, each);
      for (int64_t r = 0; r < group.count; ++r)
        best[(basis - bases.begin()) * bases.rows + group.row + r] = each.largest[r];
    }
  }
};

template <class R>
int64_t run(const Bases<R> &bases, void *result, void *gradient, bool best, int64_t threads) {
  int64_t status = DONE;
  const int64_t groups = (bases.rows + WIDTH<R> - 1) / WIDTH<R>;
  R *const to = static_cast<R *>(result);
  if (best)
    in_parallel(groups, threads, Best<R>{bases, to, &status});
  else
    in_parallel(groups, threads, LogSumExp<R>{bases, to, static_cast<R *>(gradient), &status});
  return status;
}

}  // namespace

// dtype: 0 float32, 1 float64, of all that is not integers. coordinates (rows, n) with rows `stride`
// numbers apart; signs (bases - 1, n) and chosen (lines, 2) without gaps, chosen may be null; first
// line and number of classes. Without best, result (rows,) is the log-sum-exp, and gradient
// (rows, n) its gradient, or null. With best, result (bases, rows) is the largest score of each basis.
EXPORT int64_t etf_heads_bases(int64_t dtype, const void *coordinates, int64_t stride, int64_t rows,
                               int64_t n, const int8_t *signs, int64_t first, int64_t classes,
                               const uint8_t *chosen, void *result, void *gradient, int64_t best,
                               int64_t threads) {
  if (dtype == 0)
    return run<float>({static_cast<const float *>(coordinates), stride, rows, n, signs, first, classes, chosen},
                      result, gradient, best, threads);
  if (dtype == 1)
    return run<double>({static_cast<const double *>(coordinates), stride, rows, n, signs, first, classes, chosen},
                       result, gradient, best, threads);
  return UNKNOWN_DTYPE;
}
