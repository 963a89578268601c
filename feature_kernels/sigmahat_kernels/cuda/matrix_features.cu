// SPDX-License-Identifier: Apache-2.0
//
// What eigenvalues and pair statistics of many universes say, one warp a universe: all features of spectrum.py and
// correlation.py, which are the specification, in their order.
//
// Sums run in a fixed order, so results repeat to the last bit.

constexpr int kWarp = 32, kProjections = 8, kBins = 32, kMaxFactors = 10;
constexpr double kFloor = 1e-6, kConditionCap = 10, kEpsilon = 2.220446049250313e-16;
constexpr double kTiny = 1e-12, kStillHalf = 1e-8, kHardlyVaries = 1e-7, kStill = 1e-12;

// By nearest rank of `count` values that ascend.
__device__ double quantile(const double* values, double level, int count) {
    return values[(int)rint(level * (count - 1))];
}

__device__ double decile(int k) { return 0.1 + 0.4 * k; }

// eigenvalues: (., width), those of universe u the last n = sizes[u] of its row, ascending. n_effective: (.,). rows: of
// the windows. projections: (32, 8). Of u's row of `features`, as many as are written; returns where they end.
__device__ double* write_spectrum(const double* eigenvalues, int n, int rows, double n_effective,
                                  const double* projections, double* features) {
    const int lane = threadIdx.x;
    const int n_kept = min(n, rows - 1);
    const double* const kept = eigenvalues + n - n_kept;
    const double q = n / n_effective, root = sqrt(q);
    const double lower = (1 - root) * (1 - root), upper = (1 + root) * (1 + root);
    const double first = eigenvalues[n - 1], second = fmax(eigenvalues[n - 2], kFloor);
    const double negligible = first * max(n, rows) * kEpsilon;

    double entropy = 0, squares = 0, logs = 0, above_sum = 0, bulk_sum = 0, top = 0, n_above = 0, rank = 0;
    for (int i = lane; i < n; i += kWarp) {
        const double value = eigenvalues[i], share = value / n;
        const bool is_above = value > upper;
        entropy -= share * log(fmax(share, 1e-300));
        squares += value * value;
        if (i >= n - n_kept) logs += log(fmax(value, kFloor));
        (is_above ? above_sum : bulk_sum) += value;
        n_above += is_above;
        rank += value > negligible;
    }
    entropy = warp_sum(entropy), squares = warp_sum(squares), logs = warp_sum(logs);
    above_sum = warp_sum(above_sum), bulk_sum = warp_sum(bulk_sum);
    n_above = warp_sum(n_above), rank = warp_sum(rank);
    if (lane < n) top = eigenvalues[n - 1 - lane];
    const double top3 = warp_sum(lane < 3 ? top : 0), top10 = warp_sum(lane < 10 ? top : 0);

    // Ratios of neighbours among the largest: the first of the largest ones.
    const int n_ratios = max(min(min(kMaxFactors, n / 2), n_kept - 1), 1);
    double ratio = -1;
    if (lane < n_ratios) ratio = log(fmax(top, kFloor)) - log(fmax(eigenvalues[n - 2 - lane], kFloor));
    const double largest = warp_max(ratio);
    const double at = -warp_max(ratio == largest ? -(double)lane : -(double)kWarp);

    const double sketched = log(fmax(quantile(kept, (lane + 0.5) / kWarp, n_kept), kFloor));
    const int n_bulk = max(n_kept - (int)n_above, 1);
    const double mean = fmax(bulk_sum / n_bulk, kFloor);

    const double values[] = {
        log((double)n),
        log(n_effective),
        log(q),
        1 - (double)n_kept / n,
        first / n,
        top3 / n,
        top10 / n,
        exp(entropy) / n,
        n / squares,
        log(squares / (first * first)),
        rank / n,
        fmin(log10(first / fmax(kept[0], 1e-300)), kConditionCap),
        logs / n_kept,
        log(first / second),
        log(first / upper),
        log(second / upper),
        log1p(n_above),
        above_sum / n,
        largest,
        log(1 + at),
    };
    for (double value : values) {
        if (lane == 0) *features = value;
        ++features;
    }
    for (int k = 0; k < 3; ++k) {
        if (lane == 0) features[k] = log(fmax(quantile(kept, decile(k), n_bulk), kFloor) / mean);
        if (lane == 0) features[3 + k] = (quantile(kept, decile(k), n_kept) - lower) / (upper - lower);
    }
    features += 6;
    for (int k = 0; k < kProjections; ++k) {
        const double projected = warp_sum(sketched * projections[lane * kProjections + k]);
        if (lane == 0) features[k] = projected;
    }
    return features + kProjections;
}

struct PairSums {  // of one universe, see pairs.PairStatistics
    double nearest, square, cube, form, drift, first_square, first_product;
};

// row_sum: of n assets. histogram: (32,).
__device__ void write_correlation(const double* row_sum, PairSums of, const int* histogram, int n, double noise,
                                  double n_effective, double* features) {
    const int lane = threadIdx.x;
    const double n_pairs = n * (n - 1) / 2;
    double total = 0, row_squares = 0, row_fourths = 0;
    for (int i = lane; i < n; i += kWarp) {
        const double square = row_sum[i] * row_sum[i];
        total += row_sum[i];
        row_squares += square;
        row_fourths += square * square;
    }
    total = warp_sum(total), row_squares = warp_sum(row_squares), row_fourths = warp_sum(row_fourths);
    const double average = 0.5 * (total - n) / n_pairs;
    double spread_of_assets = 0;
    for (int i = lane; i < n; i += kWarp) {
        const double away = (row_sum[i] - 1) / (n - 1) - average;
        spread_of_assets += away * away;
    }
    spread_of_assets = warp_sum(spread_of_assets) / n;

    const double off_diagonal = 2 * of.square, scale = fmax(off_diagonal, kTiny);
    const double variance = fmax(of.square / n_pairs - average * average, 0.0);
    const double third = of.cube / n_pairs - 3 * average * variance - average * average * average;
    const bool varies = variance > kHardlyVaries;
    const double spread = sqrt(varies ? variance : 1.0);

    const bool has_factor = total > kStill * n * n;
    const double r2 = has_factor ? row_squares / total : 0;
    const double fitted = (has_factor ? of.form / total : 0) - r2;
    const double factor_norm = r2 * r2 - (has_factor ? row_fourths / (total * total) : 0);

    const double second_square = of.square - 2 * of.first_product + of.first_square;
    const bool moved = fmin(of.first_square, second_square) > kStillHalf * of.square;
    const double both = of.first_product - of.first_square;
    const double stability = moved ? both / sqrt(of.first_square * second_square) : 0;

    const double count = histogram[lane];
    double below = count;  // and in the bins before
    for (int distance = 1; distance < kBins; distance *= 2) {
        const double before = __shfl_sync(0xffffffffu, below, max(lane - distance, 0));
        if (lane >= distance) below += before;
    }
    const auto quantile_of_pairs = [&](double level) {  // spread evenly inside each bin
        const double wanted = n_pairs * level;
        const int bin = min((int)warp_sum(below < wanted ? 1.0 : 0.0), kBins - 1);
        const double inside = __shfl_sync(0xffffffffu, count, bin);
        const double before = __shfl_sync(0xffffffffu, below, bin) - inside;
        return 2.0 / kBins * (bin + (wanted - before) / inside) - 1;
    };
    const double negative = __shfl_sync(0xffffffffu, below, kBins / 2 - 1);
    const double unexplained = fmax(noise - off_diagonal, 0.0);

    const double values[] = {
        average,
        sqrt(variance),
        varies ? third / (spread * spread * spread) : 0,
        quantile_of_pairs(decile(0)),
        quantile_of_pairs(decile(1)),
        quantile_of_pairs(decile(2)),
        negative / n_pairs,
        sqrt(spread_of_assets),
        of.nearest / n,
        r2 / n,
        (off_diagonal - 2 * fitted + factor_norm) / scale,
        2 * n_pairs * variance / scale,
        fmin(unexplained / (n_effective * scale), 1.0),
        2 * of.drift / scale,
        fmin(fmax(stability, -1.0), 1.0),
    };
    for (double value : values) {
        if (lane == 0) *features = value;
        ++features;
    }
}

// sizes: (.,) assets of each universe. lengths: (.,) rows of its window. eigenvalues, row_sum: (., width), numbers of
// smaller universes behind and before others. sums: (7, .), in the order of `PairSums`. histogram: (., 32). n_effective,
// noise: (.,), see `correlation.correlation_features`. features: (., n_features). Launch with a block of one warp for
// each universe.
extern "C" __global__ void __launch_bounds__(32)
matrix_features(const int* sizes, const int* lengths, int width, const double* eigenvalues, const double* row_sum,
                const double* sums, const int* histogram, const double* n_effective, const double* noise,
                const double* projections, int n_universes, int n_features, double* features) {
    const int universe = blockIdx.x, n = sizes[universe];
    const long long row = (long long)universe * width;
    double mine[7];
    for (int k = 0; k < 7; ++k) mine[k] = sums[(long long)k * n_universes + universe];
    features += (long long)universe * n_features;
    features = write_spectrum(eigenvalues + row + width - n, n, lengths[universe], n_effective[universe], projections,
                              features);
    write_correlation(row_sum + row, {mine[0], mine[1], mine[2], mine[3], mine[4], mine[5], mine[6]},
                      histogram + (long long)universe * kBins, n, noise[universe], n_effective[universe], features);
}
