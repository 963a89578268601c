// SPDX-License-Identifier: Apache-2.0
//
// All eigenvalues of many symmetric tridiagonal matrices, one block a matrix and one thread an eigenvalue.
//
// The number of eigenvalues below x is the number of negative pivots of T - x I = L D L', whatever the rounding
// (Demmel, Dhillon, Ren 1995, ETNA 3). The threads first count at one point each of a grid over the whole spectrum;
// thread k takes the interval in which the k-th smallest eigenvalue lies, and halves it: in float, which is cheap; then
// in double, where the same recurrence also gives Newton's step for det(T - x I), taken while it converges. A result
// depends on the matrix alone, so it repeats to the last bit.

// A float count is right for a matrix that differs by less than this, relative to the norm: rounding of the entries
// and of each pivot, doubled.
constexpr float kFloatError = 1e-6f;
constexpr int kFloatPasses = 22;  // to a bracket of 2^-22 = 2.4e-7 of the norm

constexpr double kTolerance = 1e-15;  // width of the last bracket, relative to the norm
constexpr int kMaxPasses = 200;       // bisection alone needs 32; a Newton step that gains nothing costs one more each

__device__ float quotient(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fdividef(a, b);
#else
    return a / b;
#endif
}

// Eigenvalues below x of a matrix of rows (diagonal, square of the offdiagonal above).
__device__ int count_below(const float2* rows, int n, float x) {
    float pivot = 1;
    int count = 0;
    for (int i = 0; i < n; ++i) {
        pivot = rows[i].x - x - quotient(rows[i].y, pivot);
        if (fabsf(pivot) < 1e-30f) pivot = -1e-30f;
        count += pivot < 0;
    }
    return count;
}

// The same in double, and Newton's step at x: with f = det(T - x I) the product of the pivots, -f / f'.
__device__ int count_below(const double2* rows, int n, double x, double& step) {
    double inverse = 1, slope = 0, logarithmic = 0;  // of the pivot: 1 / pivot, pivot' / pivot; sum of the latter
    int count = 0;
    for (int i = 0; i < n; ++i) {
        const double ratio = rows[i].y * inverse;
        double pivot = rows[i].x - x - ratio;
        if (fabs(pivot) < 1e-150) pivot = -1e-150;
        count += pivot < 0;
        inverse = 1 / pivot;
        slope = (ratio * slope - 1) * inverse;
        logarithmic += slope;
    }
    step = -1 / logarithmic;
    return count;
}

// matrices: the matrix u of each block, of n = sizes[u] rows. diagonal, offdiagonal: (., width), as tridiagonalise writes
// them. eigenvalues: (., width), the last n of a row, ascending, negative ones raised to 0; not a number where an entry
// is none. Launch with n threads or more. Dynamic shared memory: n times (double2, float2, double, int), of the largest.
extern "C" __global__ void __launch_bounds__(1024)
sturm(const double* diagonal, const double* offdiagonal, const int* matrices, const int* sizes, int width,
      double* eigenvalues) {
    const int n = sizes[matrices[blockIdx.x]];
    const long long start = (long long)matrices[blockIdx.x] * width;
    extern __shared__ double2 shared[];
    double2* const rows = shared;
    float2* const coarse = reinterpret_cast<float2*>(rows + n);
    double* const found = reinterpret_cast<double*>(coarse + n);
    int* const below = reinterpret_cast<int*>(found + n);  // each point of the grid
    diagonal += start;
    offdiagonal += start;
    eigenvalues += start + width - n;
    const int k = threadIdx.x;
    if (k < n) {
        const double above = k > 0 ? offdiagonal[k - 1] : 0;
        rows[k] = {diagonal[k], above * above};
        coarse[k] = {(float)rows[k].x, (float)rows[k].y};
    }
    __syncthreads();

    float low = 0, high = 0, sum = 0, norm = 0;
    if (k < n) {
        low = high = coarse[0].x;  // Gershgorin's bounds
        for (int i = 0; i < n; ++i) {
            const float radius = sqrtf(coarse[i].y) + (i + 1 < n ? sqrtf(coarse[i + 1].y) : 0);
            low = fminf(low, coarse[i].x - radius);
            high = fmaxf(high, coarse[i].x + radius);
            sum += coarse[i].x + radius;
        }
        norm = fmaxf(fabsf(low), fabsf(high));
        low -= kFloatError * norm;
        high += kFloatError * norm;
        below[k] = count_below(coarse, n, low + (k + 1) * ((high - low) / (n + 1)));
    }
    __syncthreads();  // all have counted

    if (k < n) {
        int first = 0;  // point with more than k eigenvalues below it, n where only `high` has
        for (int last = n; first < last;) {
            const int middle = (first + last) / 2;
            if (below[middle] > k)
                last = middle;
            else
                first = middle + 1;
        }
        const float step = (high - low) / (n + 1);
        if (first < n) high = low + (first + 1) * step;
        if (first > 0) low = low + first * step;
        int pass = 0;
        for (int intervals = n + 1; intervals > 1; intervals /= 2) ++pass;  // what the grid has spared
        for (; pass < kFloatPasses; ++pass) {
            const float middle = 0.5f * (low + high);
            (count_below(coarse, n, middle) > k ? high : low) = middle;
        }

        double left = low - kFloatError * norm, right = high + kFloatError * norm;
        const double tolerance = kTolerance * norm;
        double x = 0.5 * (left + right), last_step = right - left;
        for (int pass = 0; pass < kMaxPasses && right - left > tolerance; ++pass) {
            double step;
            (count_below(rows, n, x, step) > k ? right : left) = x;
            // A little beyond where Newton points, so that the bracket closes from both sides.
            const double next = x + step + (step > 0 ? 0.4 : -0.4) * tolerance;
            const bool converges = fabs(step) < 0.25 * last_step || fabs(step) < tolerance;
            last_step = fabs(step);
            x = converges && next > left && next < right ? next : 0.5 * (left + right);
        }
        const bool is_finite = sum - sum == 0;  // counting would make numbers out of entries that are none
        found[k] = is_finite ? fmax(0.5 * (left + right), 0.0) : sum - sum;
    }
    __syncthreads();

    if (k < n) {
        // Brackets of equal eigenvalues can end a rounding out of order.
        double largest = found[0];
        for (int j = 1; j <= k; ++j) largest = fmax(largest, found[j]);
        eigenvalues[k] = largest;
    }
}
