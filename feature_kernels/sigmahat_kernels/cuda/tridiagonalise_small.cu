// SPDX-License-Identifier: Apache-2.0
//
// Householder tridiagonalisation of many small symmetric matrices, one warp a matrix, the most of it in registers.
//
// Compile with REAL (float or double, the arithmetic) and CHUNKS (1 or 2, of 32 columns each: n <= 32 CHUNKS). Steps,
// names and arguments are those of tridiagonalise.cu. Both triangles are kept: a lane owns the columns lane and
// lane + 32, so its entries of p = A u are sums of its own, and nothing is masked. Their first 32 rows lie in registers,
// the others in shared memory, where a lane only ever meets its own columns. Of a row, which lies across the lanes, only
// the next one to eliminate is needed. All lanes read a step's vectors at once, from shared memory.

constexpr int kHeld = 32, kRows = 4;  // rows in registers; of a group
constexpr int kWidth = 32 * CHUNKS, kPitch = kWidth + 1;  // one more, so that a column too lies in different banks

struct alignas(16) Rows {  // of one group: read in vectors
    REAL of[kRows];
};

// A column whose entries left of the subdiagonal are below 1e-18 is tridiagonal already, see tridiagonalise.cu.
constexpr float kNegligible = 1e-36f;

// Entry j of a vector that lies across the lanes, in every lane.
__device__ REAL entry(const REAL* vector, int j) {
    return __shfl_sync(0xffffffffu, j < 32 ? vector[0] : vector[CHUNKS - 1], j % 32);
}

// Applies the last reflector to four elements of one column, A -= v w' + w v', and multiplies them with the next one.
__device__ void pass(REAL* element, const Rows& v_row, const Rows& w_row, const Rows& u_row, REAL v, REAL w, REAL* sum) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        element[r] = element[r] - v_row.of[r] * w - w_row.of[r] * v;
        sum[r] += element[r] * u_row.of[r];
    }
}

// Dynamic shared memory: 96 CHUNKS + 32 * 33 / 2 values of type REAL, and for each of the rows from 32 to n, up to the
// next multiple of 4, 32 CHUNKS + 1 more, of the largest n.
extern "C" __global__ void __launch_bounds__(32)
tridiagonalise_small(const double* matrices, long long stride, int width, const int* index, int index_stride,
                     const int* rows, const int* sizes, int result_stride, double* diagonal, double* offdiagonal) {
    extern __shared__ double2 shared[];
    const int universe = rows[blockIdx.x], n = sizes[universe], lane = threadIdx.x;
    REAL* const vectors = reinterpret_cast<REAL*>(shared);  // v, w and u, 0 where rows are eliminated
    REAL* const leading = vectors + 3 * kWidth;             // element (i, j), j <= i < 32, at i (i + 1) / 2 + j
    REAL* const others = leading + kHeld * (kHeld + 1) / 2;  // element (i, j), 32 <= i, at (i - 32) kPitch + j

    matrices += universe * stride;
    index += (long long)universe * index_stride;
    diagonal += (long long)universe * result_stride;
    offdiagonal += (long long)universe * result_stride;
    const int first = index[0] / width * width;  // column of the universe's window
    const int end = (n + kRows - 1) / kRows * kRows;
    for (int i = 0; i < (n < kHeld ? n : end); ++i) {
        const double* const from = matrices + (i < n ? (long long)index[i] * width - first : 0);
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            const int j = 32 * c + lane;
            const REAL element = i < n && j <= i ? (REAL)from[index[j]] : 0;
            if (i < kHeld) {
                if (j <= i) leading[i * (i + 1) / 2 + j] = element;
                continue;
            }
            if (j <= i || j >= n) others[(i - kHeld) * kPitch + j] = element;
            if (kHeld <= j && j < i) others[(j - kHeld) * kPitch + i] = element;
        }
    }
    __syncwarp();  // all elements are there

    REAL column[CHUNKS][kHeld], row[CHUNKS];  // the latter: of row m
    const int last_row = n - 1;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        const int j = 32 * c + lane;
        const REAL* const across = c == 0 ? leading + j * (j + 1) / 2 : others + lane * kPitch;  // row j
#pragma unroll
        for (int i = 0; i < kHeld; ++i)
            column[c][i] = i < n && j < n ? (c == 0 && i > j ? leading + i * (i + 1) / 2 + j : across + i)[0] : 0;
        row[c] = 0;
        if (last_row >= kHeld) row[c] = others[(last_row - kHeld) * kPitch + j];
        else if (j < n) row[c] = leading[last_row * (last_row + 1) / 2 + j];
    }

    REAL v[CHUNKS] = {}, p[CHUNKS] = {}, tau = 0;  // of the last reflector and of its product, which counts where v does
    for (int m = n - 1; m > 0; --m) {              // eliminate row m
        REAL w[CHUNKS], u[CHUNKS], dot = 0, squares = 0;
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) dot += v[c] * p[c];
        const REAL pull = (REAL)0.5 * tau * warp_sum(dot);
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) w[c] = tau * (p[c] - pull * v[c]);
        const REAL v_m = entry(v, m), w_m = entry(w, m);
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            row[c] = row[c] - v_m * w[c] - w_m * v[c];
            if (32 * c + lane < m - 1) squares += row[c] * row[c];
        }
        const REAL last = entry(row, m - 1);
        squares = warp_sum(squares);
        const bool done = squares <= (REAL)kNegligible;
        const REAL length = sqrt(last * last + squares);
        const REAL beta = done ? last : last > 0 ? -length : length;  // H sends the row to (0, ..., 0, beta)
        const REAL scale = done ? 0 : 1 / (last - beta);
        tau = done ? 0 : (beta - last) / beta;
        // All that was read of the last step's vectors went into the sums above: no lane still reads them.
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            const int j = 32 * c + lane;
            if (j == m) {
                diagonal[m] = row[c];
                offdiagonal[m - 1] = beta;
            }
            if (j >= m) v[c] = w[c] = 0;  // or what is eliminated would go on and could grow beyond all numbers
            u[c] = j < m - 1 ? scale * row[c] : j == m - 1;
            vectors[j] = v[c];
            vectors[kWidth + j] = w[c];
            vectors[2 * kWidth + j] = u[c];
        }
        __syncwarp();  // this one's are written

        REAL sum[CHUNKS][kRows] = {};
#pragma unroll
        for (int top = 0; top < kHeld; top += kRows) {
            if (top >= m) break;
            const Rows* const group = reinterpret_cast<const Rows*>(vectors + top);
            const Rows v_row = group[0], w_row = group[kWidth / kRows], u_row = group[2 * kWidth / kRows];
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c)
                if (32 * c < m) pass(column[c] + top, v_row, w_row, u_row, v[c], w[c], sum[c]);
            if (m <= top + kRows) {
#pragma unroll
                for (int r = 0; r < kRows; ++r)
                    if (top + r == m - 1) row[0] = column[0][top + r];  // further columns are eliminated
            }
        }
        for (int top = kHeld; CHUNKS > 1 && top < m; top += kRows) {
            const Rows* const group = reinterpret_cast<const Rows*>(vectors + top);
            const Rows v_row = group[0], w_row = group[kWidth / kRows], u_row = group[2 * kWidth / kRows];
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                REAL* const at = others + (top - kHeld) * kPitch + 32 * c + lane;
                REAL element[kRows];
#pragma unroll
                for (int r = 0; r < kRows; ++r) element[r] = at[r * kPitch];
                pass(element, v_row, w_row, u_row, v[c], w[c], sum[c]);
#pragma unroll
                for (int r = 0; r < kRows; ++r) at[r * kPitch] = element[r];
            }
        }
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            if (m > kHeld) row[c] = others[(m - 1 - kHeld) * kPitch + 32 * c + lane];
            p[c] = (sum[c][0] + sum[c][1]) + (sum[c][2] + sum[c][3]);
            v[c] = u[c];
        }
    }
    if (lane == 0) diagonal[0] = row[0];
}
