// SPDX-License-Identifier: Apache-2.0
//
// What the lanes of a warp find together; each has the result. The source of every kernel begins with this. Sums run in a
// fixed order.

template <typename Number>
__device__ Number warp_sum(Number value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

__device__ inline double warp_max(double value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value = fmax(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
}

// Of n numbers.
__device__ inline double sum_of(const double* values, int n, int lane) {
    double sum = 0;
    for (int i = lane; i < n; i += 32) sum += values[i];
    return warp_sum(sum);
}
