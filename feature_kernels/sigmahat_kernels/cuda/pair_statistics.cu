// SPDX-License-Identifier: Apache-2.0
//
// Sums over the pairs of assets of many universes, one block a universe, straight from the correlations of all assets.
//
// Compile with WARPS. A warp owns whole rows, a lane every 32nd column. Sums run in a fixed order, and the histogram
// counts in integers, so results repeat to the last bit. The specification is pairs.py.
//
// What takes time is to read scattered words. Each pair of each product is read once; those of the equal-weighted one
// stay in shared memory, for row sums and the quadratic form. Where a universe has more than `most_held` assets they
// do not fit, and are read again.

constexpr int kBins = 32;
constexpr int kSums = 7;
constexpr double kBinsPerUnit = kBins / 2 * (1 - 1e-12);  // a correlation of 1 still belongs to the last bin

// Correlations of all columns, (width, width) a window, one after the other, row-major: equal-weighted, exponentially
// weighted, and what the first half of the window adds to the equal-weighted one.
// rows: the universe u of each block, of n = sizes[u] assets. index: (., longest) their positions among the columns of
// all windows. row_sum: (., longest), 0 behind n. sums: (., 7), in the order of `mine` below. histogram: (., 32).
// Dynamic shared memory: n + 7 WARPS doubles, where held n (n + 1) / 2 more, 32 * 32 + n ints. Of the largest n.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
pair_statistics(const double* slow, const double* fast, const double* first, int width, const int* index,
                const int* rows, const int* sizes, int most_held, int longest, double* row_sum, double* sums,
                int* histogram) {
    const int universe = rows[blockIdx.x], n = sizes[universe];
    const bool held = n <= most_held;
    extern __shared__ double2 shared[];
    double* const row_sums = reinterpret_cast<double*>(shared);
    double* const partial = row_sums + n;                // (7, WARPS)
    double* const triangle = partial + kSums * WARPS;    // element (i, j), j <= i, at i (i + 1) / 2 + j
    double* const behind = triangle + (held ? n * (n + 1) / 2 : 0);
    int* const bins = reinterpret_cast<int*>(behind);    // (32 bins, 32 lanes): lanes never collide
    int* const columns = bins + kBins * 32;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    index += (long long)universe * longest;
    row_sum += (long long)universe * longest;
    const int window = index[0] / width * width;  // its first column
    slow += (long long)window * width;
    fast += (long long)window * width;
    first += (long long)window * width;
    for (int j = threadIdx.x; j < n; j += 32 * WARPS) columns[j] = index[j] - window;
    for (int j = n + threadIdx.x; j < longest; j += 32 * WARPS) row_sum[j] = 0;
    for (int b = threadIdx.x; b < kBins * 32; b += 32 * WARPS) bins[b] = 0;
    __syncthreads();  // columns and bins are set

    double square = 0, cube = 0, drift = 0, first_square = 0, first_product = 0;
    for (int i = warp; i < n; i += WARPS) {
        const long long row = (long long)columns[i] * width;
        for (int j = lane; j <= i; j += 32) {
            const long long at = row + columns[j];
            const double r = slow[at], recent = fast[at], early = first[at];  // on their way together
            if (held) triangle[i * (i + 1) / 2 + j] = r;
            if (j == i) continue;
            drift += (recent - r) * (recent - r);
            square += r * r;
            cube += r * r * r;
            first_square += early * early;
            first_product += early * r;
            const int bin = (int)(kBinsPerUnit * r + kBins / 2);
            atomicAdd(&bins[32 * (bin < 0 ? 0 : bin < kBins ? bin : kBins - 1) + lane], 1);
        }
    }
    __syncthreads();  // triangle and bins are complete

    const auto correlation = [&](int i, int j) {
        const int low = i < j ? i : j, high = i < j ? j : i;
        return held ? triangle[high * (high + 1) / 2 + low] : slow[(long long)columns[high] * width + columns[low]];
    };
    double nearest = 0, form = 0;
    for (int i = warp; i < n; i += WARPS) {
        double sum = 0, largest = -2;  // below every correlation
        for (int j = lane; j < n; j += 32) {
            const double r = correlation(i, j);
            sum += r;
            if (i != j) largest = fmax(largest, r);
        }
        sum = warp_sum(sum);
        largest = warp_max(largest);
        if (lane == 0) {
            row_sums[i] = sum;
            row_sum[i] = sum;
            nearest += largest;
        }
    }
    __syncthreads();  // row sums are complete

    for (int i = warp; i < n; i += WARPS)
        for (int j = lane; j <= i; j += 32)
            form += (i == j ? 0.5 : 1.0) * row_sums[i] * row_sums[j] * correlation(i, j);
    const double mine[kSums] = {nearest, square, cube, 2 * form, drift, first_square, first_product};
    for (int s = 0; s < kSums; ++s) {
        const double total = warp_sum(mine[s]);
        if (lane == 0) partial[s * WARPS + warp] = total;
    }
    __syncthreads();  // the warps' sums are written

    if (threadIdx.x < kSums) {
        double total = 0;
        for (int k = 0; k < WARPS; ++k) total += partial[threadIdx.x * WARPS + k];
        sums[(long long)universe * kSums + threadIdx.x] = total;
    }
    for (int b = threadIdx.x; b < kBins; b += 32 * WARPS) {
        int total = 0;
        for (int l = 0; l < 32; ++l) total += bins[32 * b + (b + l) % 32];  // no two threads at the same bank
        histogram[(long long)universe * kBins + b] = total;
    }
}
