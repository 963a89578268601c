// SPDX-License-Identifier: Apache-2.0
//
// Runs the text of a CUDA kernel on the CPU: included before it, it gives each thread of a block a fiber of its own
// that runs until it waits at a barrier or a shuffle. In which order the waiting fibers continue is the caller's
// choice: a kernel that lacks a barrier answers differently in different orders.

#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)

using std::max;
using std::min;

struct alignas(8) float2 { float x, y; };
struct alignas(16) double2 { double x, y; };
struct Index { unsigned x; };

Index threadIdx, blockIdx;
double2 shared[16 * 1024];  // what `extern __shared__` declares: 256 KB

namespace emulator {

constexpr int kMaxThreads = 1024, kStackBytes = 64 * 1024;
constexpr unsigned char kPoison = 0xff;  // as float and as double not a number

enum class State { kReady, kAtWarp, kAtBlock, kDone };
enum Order { kForward, kReverse, kShuffled };

struct Fiber {
    ucontext_t start;  // used once: _setjmp and _longjmp switch without a system call
    jmp_buf resume;
    bool started;
    State state;
    int n_shuffles;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
};

Fiber fibers[kMaxThreads];
jmp_buf scheduler;
std::function<void()> body;
double exchange[2][kMaxThreads];

inline void wait(State state) {
    Fiber& fiber = fibers[threadIdx.x];
    fiber.state = state;
    if (!_setjmp(fiber.resume)) _longjmp(scheduler, 1);
}

inline void proceed(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (std::exchange(fiber.started, true)) _longjmp(fiber.resume, 1);
    setcontext(&fiber.start);
}

inline void enter() {
    body();
    wait(State::kDone);
}

// Lets waiting threads go on where all of a warp, or else all of the block, have arrived. False if none can.
inline bool release(int n_threads) {
    bool any = false, all = true;
    for (int first = 0; first < n_threads; first += 32) {
        const auto arrived = [&](State state) {
            return std::all_of(fibers + first, fibers + first + 32, [&](Fiber& f) { return f.state == state; });
        };
        if (arrived(State::kAtWarp)) {
            for (int t = first; t < first + 32; ++t) fibers[t].state = State::kReady;
            any = true;
        }
        all = all && arrived(State::kAtBlock);
    }
    if (all)
        for (int t = 0; t < n_threads; ++t) fibers[t].state = State::kReady;
    return any || all;
}

// 0, or what went wrong: 1 threads wait for each other at different places, 2 writing beyond the shared memory.
inline int run(int n_blocks, int n_threads, int shared_bytes, int order, std::function<void()> kernel) {
    std::mt19937 random(1);
    int turns[kMaxThreads];
    std::iota(turns, turns + n_threads, 0);
    if (order == kReverse) std::reverse(turns, turns + n_threads);
    body = std::move(kernel);
    for (blockIdx.x = 0; blockIdx.x < (unsigned)n_blocks; ++blockIdx.x) {
        std::memset(shared, kPoison, sizeof shared);
        for (int t = 0; t < n_threads; ++t) {
            Fiber& fiber = fibers[t];
            getcontext(&fiber.start);
            fiber.start.uc_stack.ss_sp = fiber.stack.get();
            fiber.start.uc_stack.ss_size = kStackBytes;
            fiber.start.uc_link = nullptr;
            makecontext(&fiber.start, enter, 0);
            fiber.started = false;
            fiber.state = State::kReady;
            fiber.n_shuffles = 0;
        }
        for (;;) {
            if (order == kShuffled) std::shuffle(turns, turns + n_threads, random);
            for (int turn = 0; turn < n_threads; ++turn) {
                threadIdx.x = turns[turn];
                Fiber& fiber = fibers[threadIdx.x];
                if (fiber.state == State::kReady) proceed(fiber);
            }
            if (std::all_of(fibers, fibers + n_threads, [](Fiber& f) { return f.state == State::kDone; })) break;
            if (!release(n_threads)) return 1;
        }
        const auto* bytes = reinterpret_cast<const unsigned char*>(shared);
        if (std::any_of(bytes + shared_bytes, bytes + sizeof shared, [](unsigned char b) { return b != kPoison; }))
            return 2;
    }
    return 0;
}

template <class... Parameters, std::size_t... I>
std::function<void()> with_arguments(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
    return [=] { kernel(*static_cast<Parameters*>(arguments[I])...); };
}

// Arguments as cuLaunchKernel takes them: a pointer to each.
template <class... Parameters>
int launch(void (*kernel)(Parameters...), int blocks, int threads, int shared_bytes, int order, void** arguments) {
    return run(blocks, threads, shared_bytes, order, with_arguments(kernel, arguments, std::index_sequence_for<Parameters...>{}));
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::State::kAtBlock); }

inline void __syncwarp() { emulator::wait(emulator::State::kAtWarp); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    // Two buffers in turn: who writes one again has met the whole warp at the other since it was read.
    double* const buffer = emulator::exchange[emulator::fibers[threadIdx.x].n_shuffles++ % 2];
    buffer[threadIdx.x] = value;
    emulator::wait(emulator::State::kAtWarp);
    return static_cast<T>(buffer[threadIdx.x / 32 * 32 + lane]);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
    return __shfl_sync(mask, value, (threadIdx.x % 32) ^ lane_mask);
}

inline int atomicAdd(int* address, int value) { return std::exchange(*address, *address + value); }
