// SPDX-License-Identifier: Apache-2.0
//
// Correlations of many universes with missing returns, one block a universe. The specification, and the names of what
// is computed, are those of gaps.complete_correlations.
//
// There S = x'Wx + y'Wy + a diagonal, with x_it = z_it + m_it b_i f_t and y_it = m_it b_i sqrt(u_t). Multiplied out it
// differs from z'Wz, which all universes of a window share, only where a return is missing:
//     S_ij = (z'Wz)_ij + A_ij + A_ji,   A_ij = b_i sum_t w_t m_it (z_jt f_t + m_jt b_j (f_t^2 + u_t) / 2),
// half of the diagonal added to A_ii. So an entry costs what it misses, and pairs of complete assets nothing.
//
// A warp owns rows of the window, a lane every 32nd asset; then a warp owns 32 assets, a lane one. Sums run in a fixed
// order, every warp that needs a total sums it for itself, and an entry and its mirror image are written by one thread:
// so results repeat to the last bit, and matrices are symmetric to the bit.

constexpr int kWarps = 8;
constexpr double kPriorRows = 20, kLeast = 0.01, kMost = 0.99, kTiny = 1e-300;

// slow, fast: correlations of all columns, missing = 0, (width, width) a window, one after the other, row-major.
// z: (n_obs, n_columns) standardised returns of all windows, of mean square 1; not a number where missing. A universe's
// window has the last lengths[u] of these rows.
// roots: (2, n_columns) of the sums of their squares, weighted for slow and fast. weights: (2, n_obs) of the rows for
// either. gaps: the rows that column c misses are missing[gaps[c]] up to missing[gaps[c + 1] - 1].
// rows: the universe u of each block, of n = sizes[u] assets. index: (., longest) their positions among all columns.
// starts: where the (n, n) matrices of universe u begin in completed_slow and completed_fast.
// Dynamic shared memory: 4 n_obs + 5 n + 24 doubles, n ints. Of the largest n.
extern "C" __global__ void __launch_bounds__(32 * kWarps, 3)
complete(const double* slow, const double* fast, int width, const double* z, int n_columns, const double* roots,
         const double* weights, int n_obs, const int* lengths, const int* gaps, const int* missing, const int* index,
         const int* rows, const int* sizes, int longest, const long long* starts, double* completed_slow,
         double* completed_fast) {
    extern __shared__ double2 shared[];
    const int universe = rows[blockIdx.x], n = sizes[universe];
    double* const sum = reinterpret_cast<double*>(shared);  // s_t
    double* const without = sum + n_obs;                    // c_t; then 1 / (c_t - 1 + k)
    double* const mean = without + n_obs;                   // f_t
    double* const square_mean = mean + n_obs;               // f_t^2 + u_t
    double* const common = square_mean + n_obs;             // sum_t z g
    double* const squares = common + n;                     // sum_t o g^2
    double* const unsure = squares + n;                     // sum_t o / (c_t - 1 + k)
    double* const slope = unsure + n;                       // b
    double* const own = slope + n;                          // e
    double* const scale = common;                           // once these are read
    double* const fast_scale = squares;
    double* const partial = own + n;                        // (3, kWarps)
    int* const columns = reinterpret_cast<int*>(partial + 3 * kWarps);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    index += (long long)universe * longest;
    completed_slow += starts[universe];
    completed_fast += starts[universe];
    const int top = n_obs - lengths[universe];
    const int window = index[0] / width * width;  // its first column
    slow += (long long)window * width;
    fast += (long long)window * width;
    z += window;
    roots += window;
    gaps += window;
    for (int j = threadIdx.x; j < n; j += 32 * kWarps) columns[j] = index[j] - window;
    __syncthreads();  // columns are set

    double n_returns = 0, n_pairs = 0, products = 0;  // of the rows of this warp: sum of c, c (c - 1), s^2 - sum z^2
    for (int t = top + warp; t < n_obs; t += kWarps) {
        const double* const row = z + (long long)t * n_columns;
        double all = 0, count = 0, own_squares = 0;
        for (int j = lane; j < n; j += 32) {
            const double value = row[columns[j]];
            if (value != value) continue;
            all += value;
            count += 1;
            own_squares += value * value;
        }
        all = warp_sum(all);
        count = warp_sum(count);
        own_squares = warp_sum(own_squares);
        n_returns += count;
        n_pairs += count * (count - 1);
        products += all * all - own_squares;
        if (lane == 0) {
            sum[t] = all;
            without[t] = count;
        }
    }
    if (lane == 0) {
        partial[warp] = n_returns;
        partial[kWarps + warp] = n_pairs;
        partial[2 * kWarps + warp] = products;
    }
    __syncthreads();  // what rows have is known

    n_returns = sum_of(partial, kWarps, lane);
    const double average = sum_of(partial + 2 * kWarps, kWarps, lane) / fmax(sum_of(partial + kWarps, kWarps, lane), 1.0);
    const double rho = fmin(fmax(average, kLeast), kMost), noise = (1 - rho) / rho;
    for (int t = top + threadIdx.x; t < n_obs; t += 32 * kWarps) {
        const double count = without[t], factor = sum[t] / (count + noise);
        without[t] = 1 / (fmax(count, 1.0) - 1 + noise);
        mean[t] = factor;
        square_mean[t] = factor * factor + rho * noise / (count + noise);
    }
    __syncthreads();  // the factor is known

    for (int j = threadIdx.x; j < n; j += 32 * kWarps) {
        const double* const column = z + columns[j];
        double product = 0, square = 0, share = 0;
        for (int t = top; t < n_obs; ++t) {
            const double value = column[(long long)t * n_columns];
            const double others = (sum[t] - value) * without[t];
            if (value != value) continue;
            product += value * others;
            square += others * others;
            share += without[t];
        }
        common[j] = product;
        squares[j] = square;
        unsure[j] = share;
    }
    __syncthreads();  // what an asset has with the others is known

    const double all_squares = sum_of(squares, n, lane), prior = kPriorRows * all_squares / n_returns;
    const double usual = sum_of(common, n, lane) / fmax(all_squares, kTiny), most = 1 / sqrt(rho);
    for (int j = threadIdx.x; j < n; j += 32 * kWarps) {
        const double n_observed = n_obs - top - (gaps[columns[j] + 1] - gaps[columns[j]]);
        const double b = fmin(fmax((common[j] + prior * usual) / fmax(squares[j] + prior, kTiny), -most), most);
        const double left = 1 - b * (2 * common[j] - b * squares[j]) / n_observed;
        slope[j] = b;
        own[j] = fmax(left - b * b * (rho * noise * unsure[j] / n_observed), 0.0);
    }
    __syncthreads();  // slopes are known

    const int chunks = (n + 31) / 32;
    for (int item = warp; item < n * chunks; item += kWarps) {
        const int i = item / chunks, j = item % chunks * 32 + lane;
        const int begin = gaps[columns[i]], end = gaps[columns[i] + 1];
        if (j >= n || begin == end) continue;
        const double* const column = z + columns[j];
        double added = 0, fast_added = 0, weight = 0, fast_weight = 0;
        for (int k = begin; k < end; ++k) {
            const int t = missing[k];
            const double value = column[(long long)t * n_columns];
            const double product = value != value ? 0.5 * slope[j] * square_mean[t] : value * mean[t];
            added += weights[t] * product;
            fast_added += weights[n_obs + t] * product;
            weight += weights[t];
            fast_weight += weights[n_obs + t];
        }
        completed_slow[(long long)i * n + j] = slope[i] * added + (i == j ? 0.5 * own[i] * weight : 0);
        completed_fast[(long long)i * n + j] = slope[i] * fast_added + (i == j ? 0.5 * own[i] * fast_weight : 0);
    }
    __syncthreads();  // A is written

    for (int i = threadIdx.x; i < n; i += 32 * kWarps) {
        const bool whole = gaps[columns[i]] == gaps[columns[i] + 1];
        const long long cell = (long long)i * n + i;
        const double root = roots[columns[i]], fast_root = roots[n_columns + columns[i]];
        scale[i] = 1 / sqrt(root * root + (whole ? 0 : 2 * completed_slow[cell]));
        fast_scale[i] = 1 / sqrt(fast_root * fast_root + (whole ? 0 : 2 * completed_fast[cell]));
    }
    __syncthreads();  // A's diagonal is read, and the scales are known

    for (int i = warp; i < n; i += kWarps) {
        const bool row_misses = gaps[columns[i]] != gaps[columns[i] + 1];
        const double root = roots[columns[i]] * scale[i], fast_root = roots[n_columns + columns[i]] * fast_scale[i];
        for (int j = lane; j <= i; j += 32) {
            const bool column_misses = gaps[columns[j]] != gaps[columns[j] + 1];
            const long long cell = (long long)columns[i] * width + columns[j];
            const long long lower = (long long)i * n + j, upper = (long long)j * n + i;
            double value = slow[cell], fast_value = fast[cell];
            if (row_misses || column_misses) {
                const double added =
                    (row_misses ? completed_slow[lower] : 0) + (column_misses ? completed_slow[upper] : 0);
                const double fast_added =
                    (row_misses ? completed_fast[lower] : 0) + (column_misses ? completed_fast[upper] : 0);
                value = value * (root * (roots[columns[j]] * scale[j])) + added * (scale[i] * scale[j]);
                fast_value = fast_value * (fast_root * (roots[n_columns + columns[j]] * fast_scale[j])) +
                             fast_added * (fast_scale[i] * fast_scale[j]);
            }
            completed_slow[lower] = completed_slow[upper] = i == j ? 1 : value;
            completed_fast[lower] = completed_fast[upper] = i == j ? 1 : fast_value;
        }
    }
}
