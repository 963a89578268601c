// SPDX-License-Identifier: Apache-2.0
//
// Householder tridiagonalisation of many small symmetric matrices, one block a matrix (Golub, Van Loan, section 8.3).
//
// Compile with REAL (float or double, the arithmetic), WARPS (in a block), CHUNKS (32 columns each: n <= 32 CHUNKS) and
// LEADING, a multiple of 32: so many rows are left to tridiagonalise_small, which is faster at them.
//
// The matrix is gathered once into shared memory, lower triangle packed by rows, and eliminated from its last row up:
// what remains is always the leading rows, so rows start aligned and the row to eliminate lies contiguous. A lane owns
// the columns lane, lane + 32, ...; a warp owns groups of four rows. The first warp builds the next reflector; then all
// make one pass over the remaining triangle: it applies the previous reflector, A -= v w' + w v', and multiplies the
// result with the next one, p = A u, so an element is read and written once a step. Each element below the diagonal
// counts for its row (summed over the lanes) and for its column (summed over the warps); all sums run in a fixed order,
// so results repeat to the last bit.

constexpr int kRows = 4;

struct alignas(16) Rows {  // of one group: read in vectors
    REAL of[kRows];
};

__host__ __device__ constexpr int in_groups(int n) { return (n + kRows - 1) / kRows * kRows; }

// A column whose entries left of the subdiagonal are below 1e-18 (the matrix has a unit diagonal) is tridiagonal
// already: its squares would leave the range of float, and a reflector built from them would not be orthogonal.
constexpr float kNegligible = 1e-36f;

// Sums over the warp of four values at once: lane l returns the total of value[l % 4], with 6 exchanges instead of 20.
__device__ REAL warp_sum_four(const REAL* value, int lane) {
    const bool odd = lane & 1, high = lane & 2;
    const REAL first = (odd ? value[1] : value[0]) + __shfl_xor_sync(0xffffffffu, odd ? value[0] : value[1], 1);
    const REAL second = (odd ? value[3] : value[2]) + __shfl_xor_sync(0xffffffffu, odd ? value[2] : value[3], 1);
    REAL sum = (high ? second : first) + __shfl_xor_sync(0xffffffffu, high ? first : second, 2);
    for (int distance = 4; distance <= 16; distance *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    return sum;
}

// rows: the universe u of each block, of n = sizes[u] assets.
// index: its rows and columns, from index[u * index_stride], as positions among the columns of all windows.
// matrices: one (width, width) a window, row-major, one after the other; those of universe u begin u * stride doubles on.
// diagonal, offdiagonal: n and n - 1 results from u * result_stride. Where n exceeds LEADING, those of the other rows, and
// what remains of the matrix goes to remainder, (., LEADING, LEADING), the lower triangle of the one of universe u.
// Dynamic shared memory: n (n + 1) / 2 + 3 n, both up to the next multiple of 4, + (1 + WARPS) n values of type REAL, of
// the largest n.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)
tridiagonalise(const double* matrices, long long stride, int width, const int* index, int index_stride, const int* rows,
               const int* sizes, int result_stride, double* remainder, double* diagonal, double* offdiagonal) {
    extern __shared__ double2 shared[];
    const int universe = rows[blockIdx.x], n = sizes[universe];
    REAL* const a = reinterpret_cast<REAL*>(shared);  // element (i, j), j <= i, at i (i + 1) / 2 + j
    REAL* const p = a + in_groups(n * (n + 1) / 2);   // product of the remaining matrix with the last reflector; then w
    REAL* v = p + in_groups(n);                       // the last reflector
    REAL* u = v + in_groups(n);                       // the next reflector; all three are 0 where rows are eliminated
    REAL* const row_sums = u + in_groups(n);          // p, the part from below the diagonal
    REAL* const column_sums = row_sums + n;           // p, the part from on and above it, (WARPS, n)
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    matrices += universe * stride;
    index += (long long)universe * index_stride;
    diagonal += (long long)universe * result_stride;
    offdiagonal += (long long)universe * result_stride;
    const int first = index[0] / width * width;  // column of the universe's window
    for (int i = warp; i < n; i += WARPS)
        for (int j = lane; j <= i; j += 32)
            a[i * (i + 1) / 2 + j] = (REAL)matrices[(long long)index[i] * width + index[j] - first];
    for (int j = threadIdx.x; j < in_groups(n); j += 32 * WARPS) p[j] = v[j] = u[j] = 0;
    REAL tau = 0;  // the last reflector is H = I - tau v v', v's last entry being 1
    __syncthreads();

    const int least = n > LEADING ? LEADING : 1;
    for (int m = n - 1; m >= least; --m) {  // eliminate row m
        if (warp == 0) {
            REAL v_lane[CHUNKS], w_lane[CHUNKS], u_lane[CHUNKS];  // this lane's columns of v, w, u
            REAL dot = 0;
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                const int j = 32 * c + lane;
                v_lane[c] = j <= m ? v[j] : 0;
                w_lane[c] = j <= m ? p[j] : 0;
                dot += v_lane[c] * w_lane[c];
            }
            const REAL* const row = a + m * (m + 1) / 2;
            const REAL v_m = v[m], v_last = v[m - 1], p_m = p[m], p_last = p[m - 1];
            const REAL pull = (REAL)0.5 * tau * warp_sum(dot);  // w = tau (p - (tau v'p / 2) v)
            const REAL w_m = tau * (p_m - pull * v_m);
            REAL squares = 0;
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                const int j = 32 * c + lane;
                w_lane[c] = tau * (w_lane[c] - pull * v_lane[c]);
                u_lane[c] = j < m ? row[j] - v_m * w_lane[c] - w_m * v_lane[c] : 0;
                if (j < m - 1) squares += u_lane[c] * u_lane[c];
            }
            squares = warp_sum(squares);
            const REAL last = row[m - 1] - v_m * (tau * (p_last - pull * v_last)) - w_m * v_last;
            const bool done = squares <= (REAL)kNegligible;
            const REAL length = sqrt(last * last + squares);
            const REAL beta = done ? last : last > 0 ? -length : length;  // H sends the row to (0, ..., 0, beta)
            const REAL scale = done ? 0 : 1 / (last - beta);
            tau = done ? 0 : (beta - last) / beta;
            __syncwarp();  // p and v are read
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                const int j = 32 * c + lane;
                if (j >= m) continue;
                u[j] = j < m - 1 ? scale * u_lane[c] : 1;
                p[j] = w_lane[c];
            }
            if (lane == 0) {
                p[m] = v[m] = u[m] = 0;
                diagonal[m] = row[m] - 2 * v_m * w_m;
                offdiagonal[m - 1] = beta;
            }
        }
        __syncthreads();  // u is written, and p is w now

        REAL v_lane[CHUNKS], w_lane[CHUNKS], u_lane[CHUNKS], column[CHUNKS] = {};
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            const int j = 32 * c + lane;
            v_lane[c] = j < m ? v[j] : 0;
            w_lane[c] = j < m ? p[j] : 0;
            u_lane[c] = j < m ? u[j] : 0;
        }
        for (int top = kRows * warp; top < m; top += kRows * WARPS) {
            // Rows from m on are eliminated: with v = w = u = 0 they stay what they are and add nothing.
            const Rows v_row = *reinterpret_cast<const Rows*>(v + top), w_row = *reinterpret_cast<const Rows*>(p + top),
                       u_row = *reinterpret_cast<const Rows*>(u + top);
            REAL sum[kRows] = {};
            REAL* const first = a + top * (top + 1) / 2 + lane;  // row top + r begins r top + r (r + 1) / 2 further
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                if (32 * c >= top + kRows) break;
                REAL element[kRows];
                if (32 * c + 32 <= top && top + kRows <= n) {  // the same for all lanes, and nothing to mask
#pragma unroll
                    for (int r = 0; r < kRows; ++r) element[r] = first[r * top + r * (r + 1) / 2 + 32 * c];
#pragma unroll
                    for (int r = 0; r < kRows; ++r) {
                        element[r] = element[r] - v_row.of[r] * w_lane[c] - w_row.of[r] * v_lane[c];
                        first[r * top + r * (r + 1) / 2 + 32 * c] = element[r];
                        column[c] += element[r] * u_row.of[r];
                        sum[r] += element[r] * u_lane[c];
                    }
                    continue;
                }
                const int j = 32 * c + lane;
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    const bool held = top + r < m && j <= top + r;
                    element[r] = held ? first[r * top + r * (r + 1) / 2 + 32 * c] : 0;
                }
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    const bool held = top + r < m && j <= top + r;
                    element[r] = element[r] - v_row.of[r] * w_lane[c] - w_row.of[r] * v_lane[c];
                    if (held) first[r * top + r * (r + 1) / 2 + 32 * c] = element[r];
                    if (held) column[c] += element[r] * u_row.of[r];
                    if (held && j < top + r) sum[r] += element[r] * u_lane[c];
                }
            }
            const REAL total = warp_sum_four(sum, lane);
            if (lane < kRows && top + lane < m) row_sums[top + lane] = total;
        }
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c)
            if (32 * c + lane < m) column_sums[warp * n + 32 * c + lane] = column[c];
        __syncthreads();  // the sums are written, and p is no longer read

        for (int j = threadIdx.x; j < m; j += 32 * WARPS) {
            REAL sum = row_sums[j];
            for (int k = 0; k < WARPS; ++k) sum += column_sums[k * n + j];
            p[j] = sum;
        }
        REAL* const used = v;
        v = u;
        u = used;
        __syncthreads();  // p is written
    }
    if (n <= LEADING) {
        if (threadIdx.x == 0) diagonal[0] = a[0];
        return;
    }
    // The last reflector is still to be applied.
    if (warp == 0) {
        REAL dot = 0;
        for (int j = lane; j < LEADING; j += 32) dot += v[j] * p[j];
        const REAL pull = (REAL)0.5 * tau * warp_sum(dot);
        for (int j = lane; j < LEADING; j += 32) p[j] = tau * (p[j] - pull * v[j]);
    }
    __syncthreads();  // p is w now
    remainder += (long long)universe * LEADING * LEADING;
    for (int i = warp; i < LEADING; i += WARPS)
        for (int j = lane; j <= i; j += 32)
            remainder[i * LEADING + j] = a[i * (i + 1) / 2 + j] - v[i] * p[j] - p[i] * v[j];
}
