// Tree mask and positions: one block a query, which writes its mask row once and then clears its ancestors' slots.
// Bits of a float are moved, so that one body serves every float of a width.

template <typename Word>
__device__ void fill(Word* mask, i64* positions, const i64* parents, const i64* counts, const i64* lengths,
                     const i64* scratch, Word hidden, int queries, i64 width, i64 nodes) {
    const i64 i = blockIdx.x, b = blockIdx.y, place = b * queries + i;
    const i64 base = lengths[b];
    i64 node = scratch[b] + i;
    Word* row = mask + place * width;
    const bool padding = i >= counts[b];
    for (i64 slot = threadIdx.x; slot < width; slot += blockDim.x) row[slot] = !padding && slot < base ? Word(0) : hidden;
    __syncthreads();
    if (threadIdx.x != 0) return;
    if (padding) {
        row[base + node < width ? base + node : width - 1] = 0;
        positions[place] = base;
        return;
    }
    i64 depth = 0;
    while (node >= 0 && node < nodes && base + node < width) {
        row[base + node] = 0;
        const i64 parent = parents[b * nodes + node];
        node = parent < node ? parent : -1;
        depth++;
    }
    positions[place] = base + depth - 1;
}

#define FILL(NAME, WORD)                                                                                             \
    extern "C" __global__ void NAME(WORD* mask, i64* positions, const i64* parents, const i64* counts,               \
                                    const i64* lengths, const i64* scratch, u64 hidden, int queries, i64 width,      \
                                    i64 nodes) {                                                                     \
        fill<WORD>(mask, positions, parents, counts, lengths, scratch, static_cast<WORD>(hidden), queries, width,    \
                   nodes);                                                                                           \
    }

FILL(fill_tree_inputs_2, unsigned short)
FILL(fill_tree_inputs_4, unsigned)
FILL(fill_tree_inputs_8, u64)
