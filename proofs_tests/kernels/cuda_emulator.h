// CUDA on threads of the CPU: blocks one after another, the threads of a block as threads with a barrier.
// Enough for kernels that use shared memory, __syncthreads and nothing else; sanitizers then see their races.
#include <barrier>
#include <cmath>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

struct Dim3 { unsigned x, y, z; };
struct uint4 { unsigned x, y, z, w; };
static thread_local Dim3 threadIdx;
static Dim3 blockIdx, blockDim, gridDim;
static std::unique_ptr<std::barrier<>> block_barrier;

#define __global__
#define __device__
#define __shared__ static
static inline void __syncthreads() { block_barrier->arrive_and_wait(); }
using std::exp;

template <typename... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

template <typename... A>
void launch(void (*kernel)(A...), unsigned x, unsigned y, unsigned z, unsigned threads, void** arguments) {
    gridDim = {x, y, z};
    blockDim = {threads, 1, 1};
    for (unsigned block = 0; block < x * y * z; block++) {
        blockIdx = {block % x, block / x % y, block / x / y};
        block_barrier = std::make_unique<std::barrier<>>(threads);
        std::vector<std::thread> running;
        for (unsigned t = 0; t < threads; t++)
            running.emplace_back([=] {
                threadIdx = {t, 0, 0};
                call(kernel, arguments, std::index_sequence_for<A...>{});
                block_barrier->arrive_and_drop();
            });
        for (auto& thread : running) thread.join();
    }
}

#define EXPORT(NAME)                                                                                              \
    extern "C" void launch_##NAME(unsigned x, unsigned y, unsigned z, unsigned threads, void** arguments) {      \
        launch(NAME, x, y, z, threads, arguments);                                                                \
    }
