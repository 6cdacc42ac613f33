// Commit: all layers, keys and values in one launch; block (store, row, part of the heads).
// A thread owns a column of words and moves it entry by entry, so that no entry is overwritten before it is read:
// entry i comes from slot path[i] >= i and goes to slot i, hence later entries never read what earlier ones wrote.
// Four loads are in flight at a time.

constexpr int FLIGHT = 4;

template <typename Word>
__device__ void move(const i64* table, i64 rows, i64 heads, i64 slots, i64 words, i64 first_row, const i64* lengths,
                     const i64* path, const i64* kept, i64 width) {
    const i64 b = blockIdx.y, base = lengths[b], count = kept[b] < width ? kept[b] : width;
    const i64* nodes = path + b * width;
    Word* store = reinterpret_cast<Word*>(table[blockIdx.x]);
    if (first_row + b >= rows) return;
    i64 first = 0;
    while (first < count && nodes[first] == first) first++;
    for (i64 column = blockIdx.z * blockDim.x + threadIdx.x; column < heads * words; column += gridDim.z * blockDim.x) {
        const i64 head = column / words, word = column % words;
        Word* from = store + (((first_row + b) * heads + head) * slots + base) * words + word;
        for (i64 i = first; i < count; i += FLIGHT) {
            Word held[FLIGHT];
#pragma unroll
            for (int k = 0; k < FLIGHT; k++)
                if (i + k < count && base + nodes[i + k] < slots) held[k] = from[nodes[i + k] * words];
#pragma unroll
            for (int k = 0; k < FLIGHT; k++)
                if (i + k < count && base + nodes[i + k] < slots) from[(i + k) * words] = held[k];
        }
    }
}

#define COMMIT(BYTES, WORD)                                                                                        \
    extern "C" __global__ void commit_##BYTES(const i64* table, i64 rows, i64 heads, i64 slots, i64 words,         \
                                              i64 first_row, const i64* lengths, const i64* path, const i64* kept, \
                                              i64 width) {                                                         \
        move<WORD>(table, rows, heads, slots, words, first_row, lengths, path, kept, width);                       \
    }

COMMIT(4, unsigned)
COMMIT(16, uint4)
