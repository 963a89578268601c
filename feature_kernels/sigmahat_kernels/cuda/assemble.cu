// SPDX-License-Identifier: Apache-2.0
//
// Covariance matrices of many universes of any sizes, one block a universe, straight from the correlations of all assets.
// The specification is covariance.estimate_covariance, that of the loadings fast_factors.leading_factors.
//
// A warp owns whole rows, a lane every 32nd column; a statistic has a warp. Sums run in a fixed order, every warp that
// needs a total sums it for itself, and an entry and its mirror image are the same expression of the same operands: so
// results repeat to the last bit, and matrices are symmetric to the bit.

constexpr int kWarps = 8;
constexpr int kStatistics = 12, kVolatilities = 7;
constexpr int kFactors = 3, kGram = kFactors * kFactors, kPasses = 6;
constexpr double kLeastUnshared = 1e-6, kLimit = 4, kStill = 1e-12, kDependent = 1e-9;

// Columns of `heads`.
constexpr int kMemory = 0, kFactorMemory = 1, kConstant = 2, kFactor = 3, kBlend = 4, kPull = 7, kIntensityTilt = 8,
              kVolatilityTilt = kIntensityTilt + kStatistics, kLevel = kVolatilityTilt + kStatistics,
              kCommon = kLevel + 1, kHeads = kCommon + 1;

// One row of loadings: that of the product, divided by the Cholesky factor of the Gram matrix, as fast_factors._divide
// does. A column that depends on those before it has an inverse pivot of 0, and so is 0. parts: (kGram, kWarps).
__device__ void divide(const double* product, double* loadings, int n, const double* parts) {
    double factor[kFactors][kFactors], inverse[kFactors], done[kFactors];
#pragma unroll
    for (int k = 0; k < kFactors; ++k) {
        double column = product[k * n];
#pragma unroll
        for (int j = 0; j <= k; ++j) {
            double entry = 0;
            for (int part = 0; part < kWarps; ++part) entry += parts[(k * kFactors + j) * kWarps + part];
            const double whole = entry;
#pragma unroll
            for (int i = 0; i < j; ++i) entry -= factor[k][i] * factor[j][i];
            if (j == k) {
                inverse[k] = entry > kDependent * whole ? 1 / sqrt(entry) : 0;
            } else {
                factor[k][j] = entry * inverse[j];
                column -= done[j] * factor[k][j];
            }
        }
        done[k] = column * inverse[k];
    }
    for (int k = 0; k < kFactors; ++k) loadings[k * n] = done[k];
}

// slow, fast: correlations of all columns, (width, width) a window, one after the other, row-major.
// starts: of a universe with correlations of its own, where their (n, n) begin in own_slow and own_fast; others -1.
// gathered: room for the fast (n, n) of the others, which is read seven times, from places[u] on.
// logs: (8, n_columns) ln of the volatilities and of the kurtosis of the columns of all windows.
// scales: the usual size of each statistic. rows: the universe u of each block, of n = sizes[u] assets.
// index: (., longest) their positions among the columns of all windows. heads: (., 34). intensity: (., longest).
// out: (., longest, longest), `padding` where there is no asset.
// Dynamic shared memory: 17 n + 72 doubles and 2 n ints, of the largest n.
extern "C" __global__ void __launch_bounds__(BOUNDS)
assemble(const double* slow, const double* fast, int width, const double* own_slow, double* own_fast,
         const long long* starts, double* gathered, const long long* places, const double* logs, int n_columns,
         const double* scales, const int* index, const double* heads, const double* intensity, const int* rows,
         const int* sizes, int longest, REAL padding, REAL* out) {
    extern __shared__ double2 shared[];
    const int universe = rows[blockIdx.x], n = sizes[universe];
    double* const statistics = reinterpret_cast<double*>(shared);  // (12, n)
    double* const row_sum = statistics + kStatistics * n;          // of an asset's correlations with the others
    double* const log_volatility = row_sum + n;
    double* const kept = log_volatility + n;
    double* const shrunk = kept + n;
    double* const other = shrunk + n;  // its fast correlations' sum; what is added to ln volatility; 1 / variance
    double* const parts = other + n;   // (kGram, kWarps) of the Gram matrix: the shares of the warps' rows
    double* const factor = statistics;                // once these are read
    double* const loadings = factor + n;              // (3, n)
    double* const product = loadings + kFactors * n;  // (3, n) of the fast correlations and loadings
    int* const columns = reinterpret_cast<int*>(parts + kGram * kWarps);  // where its correlations stand
    int* const log_columns = columns + n;                                 // and its logs
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    index += (long long)universe * longest;
    heads += (long long)universe * kHeads;
    intensity += (long long)universe * longest;
    out += (long long)universe * longest * longest;
    const bool has_own = starts[universe] >= 0;
    const int window = index[0] / width * width;  // its first column
    slow = has_own ? own_slow + starts[universe] : slow + (long long)window * width;
    fast = has_own ? own_fast + starts[universe] : fast + (long long)window * width;
    gathered = has_own ? own_fast + starts[universe] : gathered + places[universe];
    if (has_own) width = n;
    for (int j = threadIdx.x; j < n; j += 32 * kWarps) {
        log_columns[j] = index[j];
        columns[j] = has_own ? j : index[j] - window;
    }
    __syncthreads();  // columns are set

    for (int i = warp; i < n; i += kWarps) {
        const long long row = (long long)columns[i] * width;
        double sum = 0, fast_sum = 0, squares = 0, nearest = 0;
        for (int j = lane; j < n; j += 32) {
            const double r = slow[row + columns[j]], fast_r = fast[row + columns[j]];
            if (!has_own) gathered[(long long)i * n + j] = fast_r;
            if (i == j) continue;
            sum += r;
            fast_sum += fast_r;
            squares += r * r;
            nearest = fmax(nearest, fabs(r));
        }
        sum = warp_sum(sum);
        fast_sum = warp_sum(fast_sum);
        squares = warp_sum(squares);
        nearest = warp_max(nearest);
        if (lane == 0) {
            const double* const own = logs + log_columns[i];
            const double mean = sum / (n - 1);
            row_sum[i] = sum;
            other[i] = fast_sum;
            statistics[i] = mean;
            statistics[n + i] = fast_sum / (n - 1) - mean;
            statistics[2 * n + i] = log(fmax(1 - nearest * nearest, kLeastUnshared));
            statistics[3 * n + i] = own[0];
            statistics[4 * n + i] = own[n_columns] - own[0];
            statistics[5 * n + i] = own[2 * n_columns] - own[0];
            statistics[6 * n + i] = own[kVolatilities * n_columns];
            statistics[7 * n + i] = sqrt(squares / (n - 1));
            for (int k = 3; k < kVolatilities; ++k) statistics[(5 + k) * n + i] = own[k * n_columns] - own[0];
        }
    }
    __syncthreads();  // statistics are complete, and the fast correlations are gathered

    for (int k = warp; k < kStatistics; k += kWarps) {
        double* const values = statistics + k * n;
        const double mean = sum_of(values, n, lane) / n;
        for (int i = lane; i < n; i += 32) values[i] = fmin(fmax((values[i] - mean) / scales[k], -kLimit), kLimit);
    }
    __syncthreads();  // and relative to their means

    for (int i = threadIdx.x; i < n; i += 32 * kWarps) {
        double odds = 0, raised = heads[kLevel], blended = 0;
#pragma unroll 1  // a few registers are worth more here: they let more blocks wait for memory side by side
        for (int k = 0; k < kStatistics; ++k) {
            odds += statistics[k * n + i] * heads[kIntensityTilt + k];
            raised += statistics[k * n + i] * heads[kVolatilityTilt + k];
        }
        for (int k = 0; k < 3; ++k) blended += logs[k * n_columns + log_columns[i]] * heads[kBlend + k];
        const double tilted = intensity[i] * exp(odds);
        const double share = tilted / (tilted + fmax(1 - intensity[i], 0.0));
        kept[i] = sqrt(fmax(1 - share, 0.0));
        shrunk[i] = sqrt(share);
        log_volatility[i] = blended;
        const double usual = (other[i] + 1) / n;
        other[i] = raised;
        loadings[i] = 1;  // in the place of this asset's statistics
        loadings[n + i] = usual;
        loadings[2 * n + i] = usual * usual;
    }
    __syncthreads();  // what the totals are of is complete, statistics are read, and the first loadings are there

    const double memory = heads[kMemory], factor_memory = heads[kFactorMemory];
    for (int pass = 0; pass < (factor_memory > 0 ? kPasses : 0); ++pass) {
        double gram = 0;  // of this warp's rows, a lane's own entry
        for (int i = warp; i < n; i += kWarps) {
            const double* const row = gathered + (long long)i * n;
            double sums[kFactors] = {};
            for (int j = lane; j < n; j += 32) {
                const double r = row[j];
                for (int k = 0; k < kFactors; ++k) sums[k] += r * loadings[k * n + j];
            }
            double own = 0;
            for (int k = 0; k < kFactors; ++k) {
                const double sum = warp_sum(sums[k]);
                if (lane % kFactors == k) own = sum;
            }
            if (lane < kGram) gram += loadings[lane / kFactors * n + i] * own;
            if (lane < kFactors) product[lane * n + i] = own;
        }
        if (lane < kGram) parts[lane * kWarps + warp] = gram;
        __syncthreads();  // the product and its Gram matrix are known, and loadings are read

        for (int i = threadIdx.x; i < n; i += 32 * kWarps) divide(product + i, loadings + i, n, parts);
        __syncthreads();  // loadings are set
    }

    const double mean_log = sum_of(log_volatility, n, lane) / n, off_diagonal = sum_of(row_sum, n, lane);
    const double all = off_diagonal + n;
    const double loading = all > kStill * n * n ? sqrt(heads[kFactor] / all) : 0;
    for (int i = threadIdx.x; i < n; i += 32 * kWarps) {
        const double volatility = exp(log_volatility[i] + heads[kPull] * (mean_log - log_volatility[i]) + other[i]);
        kept[i] *= volatility;
        shrunk[i] *= volatility;
        factor[i] = shrunk[i] * (row_sum[i] + 1) * loading;
        other[i] = 1 / (kept[i] * kept[i] + shrunk[i] * shrunk[i]);
    }
    __syncthreads();  // the factors of the entries are set

    const double common = heads[kCommon] * n / sum_of(other, n, lane);
    const double constant = heads[kConstant] * off_diagonal / (n * (n - 1.0));
    for (int i = warp; i < longest; i += kWarps) {
        REAL* const row = out + (long long)i * longest;
        for (int j = lane; j < longest; j += 32) {
            REAL entry = padding;
            if (i == j && i < n) entry = (REAL)(kept[i] * kept[i] + shrunk[i] * shrunk[i] + common);
            if (i != j && i < n && j < n) {
                // Of a product of matrices the halves need not agree to the bit: the lower one is read.
                const int down = i > j ? i : j, across = i > j ? j : i;
                const double r = slow[(long long)columns[down] * width + columns[across]];
                const double mixed = r + memory * (gathered[(long long)down * n + across] - r);
                double by_factors = 0;
                for (int k = 0; k < kFactors; ++k) by_factors += loadings[k * n + i] * loadings[k * n + j];
                const double correlation = (1 - factor_memory) * mixed + factor_memory * by_factors;
                const double shared_part = shrunk[i] * shrunk[j] * constant, factor_part = factor[i] * factor[j];
                entry = (REAL)(kept[i] * kept[j] * correlation + shared_part + factor_part + common);
            }
            row[j] = entry;
        }
    }
}
