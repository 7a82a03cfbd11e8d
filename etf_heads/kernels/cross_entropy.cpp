// Mean cross-entropies of several tasks, from features to the gradient of the features, on a CPU.
//
// The scores of task t are z = s sqrt(K_t / (K_t - 1)) U'h, those of all tasks side by side, with U
// of TiledOrientation: feature j is in column j mod n, with the sign (-1)^(j div n), over the root
// of the number of features in that column. With n used features U is the identity, that of
// CanonicalOrientation.
//
// forward:  checks the labels, and nothing is written where one is out of range; then means, and
//           of all scores (softmax - target) s sqrt(K_t / (K_t - 1)) / N_t.
// backward: lifts that, times the upstream gradient of each task.
//
// Arithmetic is in vectors of W numbers of 32 bytes. A vector holds W classes of one sample where
// tasks are large, and one class of W samples where they are small; the rest is the same code.

#include "vectors.h"

namespace {

constexpr int64_t ABI = 3;
constexpr int64_t CHUNK = 32;  // rows that a thread takes at a time; sums do not depend on threads

struct Tasks {
  int64_t count;
  const int64_t *sizes;
};

// Signed sums over tiles: z[c] = sum_i (-1)^i h[i n + c].
template <class S, class R> inline void project(const S *h, int64_t used, int64_t n, R *z) {
  constexpr int64_t FEW = 32, LONG = 64;
  R sums[LONG + 2 * FEW];
  int64_t length = 2 * n;  // of a block: two tiles, or more where they are short
  if (n < FEW) length = (LONG + 2 * n - 1) / (2 * n) * 2 * n;
  if (n < FEW && length <= used) {
    for (int64_t i = 0; i < length; ++i) sums[i] = widened(h[i]);
    int64_t start = length;
    for (; start + length <= used; start += length)
      for (int64_t i = 0; i < length; ++i) sums[i] += widened(h[start + i]);
    for (int64_t i = 0; start + i < used; ++i) sums[i] += widened(h[start + i]);
    for (int64_t c = 0; c < n; ++c) z[c] = sums[c] - sums[n + c];
    for (int64_t tile = 2 * n; tile < length; tile += 2 * n)
      for (int64_t c = 0; c < n; ++c) z[c] += sums[tile + c] - sums[tile + n + c];
    return;
  }
  int64_t start = 2 * n;
  if (start <= used)
    for (int64_t c = 0; c < n; ++c) z[c] = widened(h[c]) - widened(h[n + c]);
  else
    for (int64_t c = 0; c < n; ++c) z[c] = 0;
  if (start > used) start = 0;
  for (; start + 2 * n <= used; start += 2 * n)
    for (int64_t c = 0; c < n; ++c) z[c] += widened(h[start + c]) - widened(h[start + n + c]);
  const int64_t rest = used - start, width = rest < n ? rest : n;
  for (int64_t c = 0; c < width; ++c) z[c] += widened(h[start + c]);
  for (int64_t c = n; c < rest; ++c) z[c - n] -= widened(h[start + c]);
}

// One task's scores, of one sample (by_class: vectors of classes) or of a vector of samples.
template <class R> struct Scores {
  R *z;              // vectors, of which the last may be padded with -inf
  const R *factors;  // of z, by class
  int64_t vectors, classes;
  int64_t label[WIDTH<R>];  // negative where there is none
  Reals<R> weight;  // scale over the number of labels; zero where there is no label
};

// A loss is the logarithm of the sum less the target, the score of the label, both of scores less
// the highest one. z becomes (softmax - target) * weight.
template <class R> struct Parts {
  Reals<R> sum, target;
};

template <class R, bool by_class> inline Parts<R> solve(const Scores<R> &scores, R smoothing) {
  constexpr int64_t W = WIDTH<R>;
  R *const z = scores.z;
  const int64_t vectors = scores.vectors;
  Reals<R> highest = splat<R>(-INFINITE<R>);
  for (int64_t k = 0; k < vectors; ++k) {
    const Reals<R> factor = by_class ? load(scores.factors + k * W) : splat<R>(scores.factors[k]);
    const Reals<R> x = load(z + k * W) * factor;
    store(z + k * W, x);
    highest = x > highest ? x : highest;
  }
  if (by_class) highest = splat<R>(largest_of<R>(highest));
  Reals<R> own = highest;
  for (int64_t r = 0; r < (by_class ? 1 : W); ++r)
    if (scores.label[r] >= 0) own[r] = z[by_class ? scores.label[r] : scores.label[r] * W + r];
  Reals<R> target = own - highest;
  if (smoothing != 0) {
    Reals<R> total{};
    for (int64_t k = 0; k + 1 < vectors; ++k) total += load(z + k * W) - highest;
    const int64_t last = vectors - 1;
    Reals<R> end = load(z + last * W) - highest;
    for (int64_t r = 0; by_class && r < W; ++r)
      if (last * W + r >= scores.classes) end[r] = 0;
    total += end;
    if (by_class) total = splat<R>(sum_of<R>(total));
    target = target * (1 - smoothing) + total * (smoothing / R(scores.classes));
  }
  Reals<R> sum{};
  for (int64_t k = 0; k < vectors; ++k) {
    const Reals<R> e = exponential<R>(load(z + k * W) - highest);
    store(z + k * W, e);
    sum += e;
  }
  if (by_class) sum = splat<R>(sum_of<R>(sum));
  const Reals<R> factor = scores.weight / sum;
  const Reals<R> shift = scores.weight * (smoothing / R(scores.classes));
  for (int64_t k = 0; k < vectors; ++k) store(z + k * W, load(z + k * W) * factor - shift);
  for (int64_t r = 0; r < (by_class ? 1 : W); ++r)
    if (scores.label[r] >= 0)
      z[by_class ? scores.label[r] : scores.label[r] * W + r] -= scores.weight[r] * (1 - smoothing);
  return {sum, target};
}

template <class S, class R> struct Forward {
  const S *features;
  int64_t stride;
  const int64_t *labels;
  int64_t label_row, label_task;
  int64_t rows, used, columns;
  Tasks tasks;
  int64_t missing;
  R smoothing;
  const R *factors;  // (columns + W,)
  const R *weights;  // (tasks,)
  R *residual;       // (rows, columns), or null
  double *sums;      // (chunks, tasks)
  int64_t *status;

  static constexpr int64_t W = WIDTH<R>;

  int64_t label(int64_t row, int64_t task) const {
    const int64_t y = labels[row * label_row + task * label_task];
    return y == missing ? -1 : y;
  }

  // Tasks of one sample, in vectors of classes; sums and targets of task t at t * CHUNK.
  void one(int64_t row, R *z, R *sum, R *target) const {
    project(features + row * stride, used, columns, z);
    for (int64_t t = 0, start = 0; t < tasks.count; start += tasks.sizes[t++]) {
      Scores<R> scores{z + start, factors + start, 0, tasks.sizes[t], {}, {}};
      scores.vectors = (scores.classes + W - 1) / W;
      scores.label[0] = label(row, t);
      scores.weight = splat<R>(scores.label[0] < 0 ? R(0) : weights[t]);
      R *const end = scores.z + scores.classes;
      const int64_t padding = scores.vectors * W - scores.classes;
      R next[W];  // what the padding covers: scores of the next task, or the end of z
      for (int64_t i = 0; i < padding; ++i) next[i] = end[i], end[i] = -INFINITE<R>;
      const Parts<R> parts = solve<R, true>(scores, smoothing);
      if (scores.label[0] >= 0) sum[t * CHUNK] = parts.sum[0], target[t * CHUNK] = parts.target[0];
      for (int64_t i = 0; i < padding; ++i) end[i] = next[i];
    }
    if (residual) std::memcpy(residual + row * columns, z, columns * sizeof(R));
  }

  // Tasks of W samples (or fewer), in vectors of samples.
  void several(int64_t row, int64_t count, R *z, R *turned, R *sum, R *target) const {
    const int64_t width = (columns + W - 1) / W * W;
    for (int64_t r = 0; r < count; ++r)
      project(features + (row + r) * stride, used, columns, z + r * width);
    for (int64_t c = 0; c < columns; c += W) {
      Reals<R> square[W];
      for (int64_t r = 0; r < W; ++r) square[r] = load(z + r * width + c);
      transpose(square);
      for (int64_t r = 0; r < W; ++r) store(turned + (c + r) * W, square[r]);
    }
    for (int64_t t = 0, start = 0; t < tasks.count; start += tasks.sizes[t++]) {
      Scores<R> scores{turned + start * W, factors + start, tasks.sizes[t], tasks.sizes[t], {}, {}};
      for (int64_t r = 0; r < W; ++r) {
        scores.label[r] = r < count ? label(row + r, t) : -1;
        scores.weight[r] = scores.label[r] < 0 ? R(0) : weights[t];
      }
      const Parts<R> parts = solve<R, false>(scores, smoothing);
      for (int64_t r = 0; r < count; ++r)
        if (scores.label[r] >= 0)
          sum[t * CHUNK + r] = parts.sum[r], target[t * CHUNK + r] = parts.target[r];
    }
    if (!residual) return;
    for (int64_t c = 0; c < columns; c += W) {
      Reals<R> square[W];
      for (int64_t r = 0; r < W; ++r) square[r] = load(turned + (c + r) * W);
      transpose(square);
      const int64_t here = columns - c < W ? columns - c : W;
      for (int64_t r = 0; r < count; ++r) {
        R *const to = residual + (row + r) * columns + c;
        if (here == W)
          store(to, square[r]);
        else
          std::memcpy(to, &square[r], here * sizeof(R));
      }
    }
  }

  void operator()(int64_t chunk) const {
    const int64_t first = chunk * CHUNK;
    const int64_t last = rows - first < CHUNK ? rows : first + CHUNK;
    const int64_t width = (columns + W - 1) / W * W;
    int64_t smallest = tasks.sizes[0];
    for (int64_t t = 1; t < tasks.count; ++t)
      if (tasks.sizes[t] < smallest) smallest = tasks.sizes[t];
    const bool by_class = smallest >= 4 * W;
    const size_t numbers = by_class ? size_t(width) + W : 2 * size_t(width) * W;
    const size_t losses = size_t(tasks.count) * CHUNK;
    R *const z = static_cast<R *>(std::calloc(numbers + 2 * losses, sizeof(R)));
    if (!z) {
      __atomic_store_n(status, NO_MEMORY, __ATOMIC_RELAXED);
      return;
    }
    R *const sum = z + numbers, *const target = sum + losses;
    for (size_t i = 0; i < losses; ++i) sum[i] = 1;  // of losses that are zero
    if (by_class)
      for (int64_t row = first; row < last; ++row) one(row, z, sum + row - first, target + row - first);
    else
      for (int64_t row = first; row < last; row += W)
        several(row, last - row < W ? last - row : W, z, z + width * W, sum + row - first,
                target + row - first);
    for (int64_t t = 0; t < tasks.count; ++t) {
      Reals<R> total{};
      for (int64_t i = t * CHUNK; i < (t + 1) * CHUNK; i += W)
        total += logarithm<R>(load(sum + i)) - load(target + i);
      sums[chunk * tasks.count + t] = sum_of<R>(total);
    }
    std::free(z);
  }
};

inline int64_t count_columns(const Tasks &tasks) {
  int64_t columns = 0;
  for (int64_t t = 0; t < tasks.count; ++t) columns += tasks.sizes[t];
  return columns;
}

// number(task) / root of the number of features, of each column: (columns,).
template <class R, class Number>
void by_column(const Tasks &tasks, int64_t used, int64_t columns, Number number, R *result) {
  const int64_t tiles = used / columns, longer = used % columns;
  const double few = 1 / std::sqrt(double(tiles)), many = 1 / std::sqrt(double(tiles + 1));
  for (int64_t t = 0, c = 0; t < tasks.count; ++t) {
    const double own = double(number(t));
    for (const int64_t end = c + tasks.sizes[t]; c < end; ++c)
      result[c] = R(own * (c < longer ? many : few));
  }
}

template <class S, class R>
int64_t forward(const void *features, int64_t stride, const int64_t *labels, int64_t label_row,
                int64_t label_task, int64_t rows, int64_t used, const Tasks &tasks,
                double scale, int64_t missing, double smoothing, void *means, bool total,
                void *residual, int64_t threads) {
  const int64_t columns = count_columns(tasks), chunks = (rows + CHUNK - 1) / CHUNK;
  const size_t doubles = size_t(chunks + 1) * tasks.count, reals = size_t(columns) + WIDTH<R> + tasks.count;
  double *const sums = static_cast<double *>(
      std::calloc(doubles * sizeof(double) + reals * sizeof(R), 1));
  if (!sums) return NO_MEMORY;
  double *const counts = sums + chunks * tasks.count;
  R *const factors = reinterpret_cast<R *>(counts + tasks.count);
  R *const weights = factors + columns + WIDTH<R>;
  for (int64_t i = 0; i < WIDTH<R>; ++i) factors[columns + i] = 1;  // of padding
  bool wrong = false;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t t = 0; t < tasks.count; ++t) {
      const int64_t y = labels[row * label_row + t * label_task];
      wrong |= y != missing && uint64_t(y) >= uint64_t(tasks.sizes[t]);
      counts[t] += y != missing;
    }
  if (wrong) {
    std::free(sums);
    return LABEL_OUT_OF_RANGE;
  }
  const auto scale_of = [&](int64_t t) {
    return scale * std::sqrt(double(tasks.sizes[t]) / double(tasks.sizes[t] - 1));
  };
  by_column(tasks, used, columns, scale_of, factors);
  for (int64_t t = 0; t < tasks.count; ++t)
    weights[t] = R(scale_of(t) / (counts[t] > 0 ? counts[t] : 1));
  int64_t status = DONE;
  const Forward<S, R> work{static_cast<const S *>(features),
                           stride,
                           labels,
                           label_row,
                           label_task,
                           rows,
                           used,
                           columns,
                           tasks,
                           missing,
                           R(smoothing),
                           factors,
                           weights,
                           static_cast<R *>(residual),
                           sums,
                           &status};
  in_parallel(chunks, threads, work);
  double all = 0;
  for (int64_t t = 0; t < tasks.count; ++t) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * tasks.count + t];
    sum /= counts[t] > 0 ? counts[t] : 1;
    all += sum;
    if (!total) static_cast<R *>(means)[t] = R(sum);
  }
  if (total) *static_cast<R *>(means) = R(all);
  std::free(sums);
  return status;
}

template <class S, class R>
int64_t backward(const R *residual, const R *upstream, int64_t stride, int64_t rows, int64_t size, int64_t used,
                 const Tasks &tasks, S *gradient, int64_t threads) {
  const int64_t columns = count_columns(tasks);
  R *const factors = static_cast<R *>(std::malloc(columns * sizeof(R)));
  if (!factors) return NO_MEMORY;
  by_column(tasks, used, columns, [=](int64_t t) { return upstream[t * stride]; }, factors);
  const int64_t second = used - columns < columns ? used - columns : columns;
  const auto lift = [=](int64_t chunk) {
    const int64_t first = chunk * CHUNK;
    const int64_t last = rows - first < CHUNK ? rows : first + CHUNK;
    for (int64_t row = first; row < last; ++row) {
      const R *const from = residual + row * columns;
      S *const to = gradient + row * size;
      for (int64_t c = 0; c < columns; ++c) narrow(from[c] * factors[c], to[c]);
      for (int64_t c = 0; c < second; ++c) narrow(-from[c] * factors[c], to[columns + c]);
      int64_t have = columns + second;  // two tiles, then four, ...
      while (have < used) {
        const int64_t more = used - have < have ? used - have : have;
        std::memcpy(to + have, to, more * sizeof(S));
        have += more;
      }
      std::memset(static_cast<void *>(to + used), 0, (size - used) * sizeof(S));
    }
  };
  in_parallel((rows + CHUNK - 1) / CHUNK, threads, lift);
  std::free(factors);
  return DONE;
}

}  // namespace

EXPORT int64_t etf_heads_abi() { return ABI; }

// dtype: 0 float32, 1 float64, 2 bfloat16 (means and residual are float32 then).
// features (rows, >= used) with rows `stride` numbers apart; labels at row * label_row + task *
// label_task; sizes (tasks,), of at least 2; used >= sum of sizes; means (tasks,), or their sum (1,)
// where that is asked for; residual (rows, sum of sizes) or null.
EXPORT int64_t etf_heads_cross_entropy(int64_t dtype, const void *features, int64_t stride,
                                       const int64_t *labels, int64_t label_row,
                                       int64_t label_task, int64_t rows, int64_t used,
                                       int64_t tasks, const int64_t *sizes, double scale,
                                       int64_t missing, double smoothing, void *means,
                                       int64_t total, void *residual, int64_t threads) {
  const auto run = dtype == 0   ? forward<float, float>
                   : dtype == 1 ? forward<double, double>
                   : dtype == 2 ? forward<bfloat16, float>
                                : nullptr;
  if (!run) return UNKNOWN_DTYPE;
  return run(features, stride, labels, label_row, label_task, rows, used, Tasks{tasks, sizes},
             scale, missing, smoothing, means, total, residual, threads);
}

// upstream (tasks,), `stride` numbers apart; gradient (rows, size), without gaps, in the dtype of the features.
EXPORT int64_t etf_heads_cross_entropy_backward(int64_t dtype, const void *residual,
                                                const void *upstream, int64_t stride, int64_t rows,
                                                int64_t size, int64_t used, int64_t tasks,
                                                const int64_t *sizes, void *gradient,
                                                int64_t threads) {
  const Tasks all{tasks, sizes};
  if (dtype == 1)
    return backward(static_cast<const double *>(residual), static_cast<const double *>(upstream),
                    stride, rows, size, used, all, static_cast<double *>(gradient), threads);
  const auto *r = static_cast<const float *>(residual), *u = static_cast<const float *>(upstream);
  if (dtype == 0)
    return backward(r, u, stride, rows, size, used, all, static_cast<float *>(gradient), threads);
  if (dtype == 2)
    return backward(r, u, stride, rows, size, used, all, static_cast<bfloat16 *>(gradient), threads);
  return UNKNOWN_DTYPE;
}
