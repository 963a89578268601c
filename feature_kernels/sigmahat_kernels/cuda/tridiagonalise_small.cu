// SPDX-License-Identifier: Apache-2.0
//
// Householder tridiagonalisation of many symmetric matrices of up to 32 rows, one warp a matrix, in registers.
//
// Compile with REAL (float or double, the arithmetic). Steps, names and arguments are those of tridiagonalise.cu. Lane j
// holds all of column j, so that its entry of p = A u is a sum of its own; of a row, which lies across the lanes, only
// the next one to eliminate is ever needed. A step's vectors are read by all lanes at once, from shared memory.

constexpr int kSize = 32, kRows = 4;

struct alignas(16) Rows {  // of one group: read in vectors
    REAL of[kRows];
};

// A column whose entries left of the subdiagonal are below 1e-18 is tridiagonal already, see tridiagonalise.cu.
constexpr float kNegligible = 1e-36f;

__device__ REAL warp_sum(REAL value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

__device__ REAL of_lane(REAL value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }

// Dynamic shared memory: n (n + 1) / 2, up to the next multiple of 4, + 96 values of type REAL, of the largest n.
extern "C" __global__ void __launch_bounds__(32)
tridiagonalise_small(const double* matrices, long long stride, int width, const int* index, int index_stride,
                     const int* rows, const int* sizes, int result_stride, double* diagonal, double* offdiagonal) {
    extern __shared__ double2 shared[];
    const int universe = rows[blockIdx.x], n = sizes[universe], lane = threadIdx.x;
    REAL* const vectors = reinterpret_cast<REAL*>(shared);  // v, w and u, 0 where rows are eliminated
    REAL* const a = vectors + 3 * kSize;                    // element (i, j), j <= i, at i (i + 1) / 2 + j

    matrices += universe * stride;
    index += (long long)universe * index_stride;
    diagonal += (long long)universe * result_stride;
    offdiagonal += (long long)universe * result_stride;
    const int first = index[0] / width * width;  // column of the universe's window
    for (int i = 0; i < n; ++i)
        if (lane <= i) a[i * (i + 1) / 2 + lane] = (REAL)matrices[(long long)index[i] * width + index[lane] - first];
    __syncwarp();  // the triangle is complete

    REAL column[kSize], row = lane < n ? a[(n - 1) * n / 2 + lane] : 0;  // the latter: this lane's entry of row m
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
        const int low = i < lane ? i : lane, high = i < lane ? lane : i;
        column[i] = high < n ? a[high * (high + 1) / 2 + low] : 0;
    }
    REAL v = 0, p = 0, tau = 0;  // this lane's entries of the last reflector and of its product; p counts where v does
    for (int m = n - 1; m > 0; --m) {  // eliminate row m
        const REAL pull = (REAL)0.5 * tau * warp_sum(v * p);
        REAL w = tau * (p - pull * v);
        const REAL v_m = of_lane(v, m), w_m = of_lane(w, m);
        row = row - v_m * w - w_m * v;
        const REAL last = of_lane(row, m - 1), squares = warp_sum(lane < m - 1 ? row * row : 0);
        const bool done = squares <= (REAL)kNegligible;
        const REAL length = sqrt(last * last + squares);
        const REAL beta = done ? last : last > 0 ? -length : length;  // H sends the row to (0, ..., 0, beta)
        const REAL scale = done ? 0 : 1 / (last - beta);
        tau = done ? 0 : (beta - last) / beta;
        if (lane == m) {
            diagonal[m] = row;
            offdiagonal[m - 1] = beta;
        }
        if (lane >= m) v = w = 0;
        const REAL u = lane < m - 1 ? scale * row : lane == m - 1;
        __syncwarp();  // the last step's vectors are read
        vectors[lane] = v;
        vectors[kSize + lane] = w;
        vectors[2 * kSize + lane] = u;
        __syncwarp();  // this one's are written

        REAL sum[kRows] = {};
#pragma unroll
        for (int top = 0; top < kSize; top += kRows) {
            if (top >= m) break;
            const Rows* const group = reinterpret_cast<const Rows*>(vectors + top);
            const Rows v_row = group[0], w_row = group[kSize / kRows], u_row = group[2 * kSize / kRows];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                column[top + r] = column[top + r] - v_row.of[r] * w - w_row.of[r] * v;
                sum[r] += column[top + r] * u_row.of[r];
            }
            if (m <= top + kRows) {
#pragma unroll
                for (int r = 0; r < kRows; ++r)
                    if (top + r == m - 1) row = column[top + r];
            }
        }
        p = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        v = u;
    }
    if (lane == 0) {
        diagonal[0] = row;
        offdiagonal[n - 1] = 0;
    }
}
