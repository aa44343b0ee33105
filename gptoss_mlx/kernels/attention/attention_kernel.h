// Attention over one split of the keys in float32: scores, a softmax that is carried from block to block, and the
// weighted sum of the values. Compiled once per instruction set.
//
// Eight rows share every key and value that is loaded. Scores of a block lie as [key][row], so that maxima,
// exponentials and sums work on whole vectors and each result's own arithmetic is the same whoever shares its tile.
#pragma once

#include "attention/tile.h"
#include "isa/simd.h"

namespace gptoss::GPTOSS_ISA {

constexpr int64_t kBlock = kFirstStep;                      // keys between two corrections of the maximum
constexpr int kHeads = int(kTileHeads);                     // rows
constexpr int kPeriod = kLanes > kHeads ? kLanes : kHeads;  // floats after which the rows of scores repeat
constexpr int kPeriodVectors = kPeriod / kLanes;
#if defined(GPTOSS_NEON)
constexpr int kKeys = 2;     // keys of a tile of scores: registers for 16 sums
constexpr int kColumns = 2;  // vectors of values of a tile of results
#else
constexpr int kKeys = kPeriod / kHeads;
constexpr int kColumns = kLanes == 16 ? 2 : 1;
#endif
constexpr float kLowest = -3e38f;  // stands for minus infinity, whose difference with itself is not a number

// Parts of a tile: maxima, sums, results as [vector of the width][row].
constexpr int64_t kMaxima = 0, kTotals = kPeriod, kResults = 2 * kPeriod;

inline int64_t tile_floats(int64_t width) { return kResults + kHeads * padded(width, kLanes * kColumns); }

inline int64_t attention_space(int64_t rows, int64_t width) {
    const int64_t wide = padded(width, kLanes * kColumns);
    return padded(rows, kHeads) * wide + 2 * kBlock * wide + (kBlock + kKeys) * kHeads;
}

template <Number number>
inline F load_numbers(const uint8_t* p, int64_t i) {
    if constexpr (number == Number::kFloat32) return load(reinterpret_cast<const float*>(p) + i);
    if constexpr (number == Number::kFloat16) return load_f16(reinterpret_cast<const uint16_t*>(p) + i);
    if constexpr (number == Number::kBFloat16) return load_bf16(reinterpret_cast<const uint16_t*>(p) + i);
}

constexpr int64_t bytes_of(Number number) { return number == Number::kFloat32 ? 4 : 2; }

// Any vector to floats, the rest of `wide` zero.
template <Number number>
inline void widen(const uint8_t* p, int64_t step, int64_t width, int64_t wide, float* out) {
    int64_t i = 0;
    if (step == 1)
        for (; i + kLanes <= width; i += kLanes) store(out + i, load_numbers<number>(p, i));
    for (; i < width; i += kLanes) {
        constexpr int64_t bytes = bytes_of(number);
        alignas(64) uint8_t buffer[kLanes * 4] = {};
        alignas(64) float floats[kLanes];
        const int64_t count = width - i < kLanes ? width - i : kLanes;
        for (int64_t j = 0; j < count; ++j) std::memcpy(buffer + j * bytes, p + (i + j) * step * bytes, bytes);
        store(floats, load_numbers<number>(buffer, 0));
        std::memcpy(out + i, floats, count * sizeof(float));
    }
    for (i = width; i < wide; ++i) out[i] = 0.0f;
}

inline void widen_block(const Vectors& from, int64_t first, int64_t last, int64_t width, int64_t wide, float* out) {
    for (int64_t j = first; j < last; ++j, out += wide) {
        const uint8_t* p = from.data + j * from.stride * bytes_of(from.number);
        if (from.number == Number::kFloat32) widen<Number::kFloat32>(p, from.step, width, wide, out);
        if (from.number == Number::kFloat16) widen<Number::kFloat16>(p, from.step, width, wide, out);
        if (from.number == Number::kBFloat16) widen<Number::kBFloat16>(p, from.step, width, wide, out);
    }
}

// kLanes elements of a vector of floats from i on, zero beyond its end.
inline F load_part(const float* p, int64_t step, int64_t i, int64_t width) {
    if (step == 1 && i + kLanes <= width) return load(p + i);
    alignas(64) float part[kLanes] = {};
    for (int64_t j = i; j < i + kLanes && j < width; ++j) part[j - i] = p[j * step];
    return load(part);
}

// Eight queries, scaled, as [vector of the width][row]; rows beyond the last are zero.
inline void arrange_queries(const Rows& rows, int64_t first, int64_t wide, float* out) {
    for (int r = 0; r < kHeads; ++r) {
        const float* query = first + r < rows.count ? rows.queries[first + r] : nullptr;
        for (int64_t i = 0; i < wide; i += kLanes) {
            const F part = query != nullptr ? load_part(query, rows.query_step, i, rows.width) : zero();
            store(out + i * kHeads + r * kLanes, mul(part, set1(rows.scale)));
        }
    }
}

// Keys [first, last) of a block that lies at `data`, vectors `stride` bytes apart, with the first key at index 0.
struct Block {
    const uint8_t* keys;
    const uint8_t* values;
    int64_t key_bytes, value_bytes;  // from one vector to the next
    int64_t wide;                    // width in whole tiles of results
};

// scores[(key - first) * 8 + row], from an even key on; a last key without a partner is computed twice.
template <Number number>
inline void score_block(const Block& block, const float* queries, int64_t first, int64_t last, float* scores) {
    constexpr int kSums = kHeads * kKeys;
    for (int64_t j = first; j < last; j += kKeys, scores += kSums) {
        const uint8_t* keys[kKeys];
        for (int c = 0; c < kKeys; ++c) keys[c] = block.keys + (j + c < last ? j + c : last - 1) * block.key_bytes;
        F dots[kSums];
#pragma GCC unroll 32
        for (int i = 0; i < kSums; ++i) dots[i] = zero();
        const float* query = queries;
        for (int64_t i = 0; i < block.wide; i += kLanes, query += kHeads * kLanes) {
            F key[kKeys];
#pragma GCC unroll 4
            for (int c = 0; c < kKeys; ++c) key[c] = load_numbers<number>(keys[c], i);
#pragma GCC unroll 8
            for (int r = 0; r < kHeads; ++r) {
                const F part = load(query + r * kLanes);
#pragma GCC unroll 4
                for (int c = 0; c < kKeys; ++c) dots[c * kHeads + r] = fma(key[c], part, dots[c * kHeads + r]);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < kSums; i += kLanes) store(scores + i, sums(dots + i));
    }
}

// results += sum over keys of weights[(key - first) * 8 + row] * value
template <Number number>
inline void weigh_block(const Block& block, const float* weights, int64_t first, int64_t last, float* results) {
    for (int64_t i = 0; i < block.wide; i += kColumns * kLanes, results += kColumns * kHeads * kLanes) {
        F total[kColumns][kHeads];
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 8
            for (int r = 0; r < kHeads; ++r) total[c][r] = load(results + (c * kHeads + r) * kLanes);
        const float* weight = weights;
        const uint8_t* value = block.values + first * block.value_bytes;
        for (int64_t j = first; j < last; ++j, weight += kHeads, value += block.value_bytes) {
            F part[kColumns];
#pragma GCC unroll 4
            for (int c = 0; c < kColumns; ++c) part[c] = load_numbers<number>(value, i + c * kLanes);
#pragma GCC unroll 8
            for (int r = 0; r < kHeads; ++r) {
                const F share = set1(weight[r]);
#pragma GCC unroll 4
                for (int c = 0; c < kColumns; ++c) total[c][r] = fma(share, part[c], total[c][r]);
            }
        }
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 8
            for (int r = 0; r < kHeads; ++r) store(results + (c * kHeads + r) * kLanes, total[c][r]);
    }
}

// out[r] = e^(from[r] - to[r]) for the eight rows.
inline void factors(const float* from, const float* to, float* out) {
    for (int i = 0; i < kPeriod; i += kLanes) store(out + i, exp(sub(load(from + i), load(to + i))));
}

inline void scale_results(float* results, int64_t wide, const float* by) {
    for (int64_t i = 0; i < wide; i += kLanes)
        for (int r = 0; r < kHeads; ++r, results += kLanes) store(results, mul(load(results), set1(by[r])));
}

// Turn `count` floats of scores into exponentials against a new maximum; maximum, sums and results of the tile follow.
inline void soften(float* scores, int64_t count, int64_t wide, float* tile) {
    alignas(64) float best[kPeriod], sum[kPeriod], correction[kPeriod];
    F vectors[kPeriodVectors];
    for (int v = 0; v < kPeriodVectors; ++v) vectors[v] = load(tile + kMaxima + v * kLanes);
    for (int64_t i = 0; i < count; i += kPeriod)
        for (int v = 0; v < kPeriodVectors; ++v) vectors[v] = max(vectors[v], load(scores + i + v * kLanes));
    for (int v = 0; v < kPeriodVectors; ++v) store(best + v * kLanes, vectors[v]);
    for (int r = 0; r < kHeads; ++r)
        for (int i = r + kHeads; i < kPeriod; i += kHeads) best[r] = best[r] > best[i] ? best[r] : best[i];
    for (int i = kHeads; i < kPeriod; ++i) best[i] = best[i - kHeads];
    factors(tile + kMaxima, best, correction);
    for (int v = 0; v < kPeriodVectors; ++v) vectors[v] = zero();
    for (int64_t i = 0; i < count; i += kPeriod)
        for (int v = 0; v < kPeriodVectors; ++v) {
            const F share = exp(sub(load(scores + i + v * kLanes), load(best + v * kLanes)));
            store(scores + i + v * kLanes, share);
            vectors[v] = add(vectors[v], share);
        }
    for (int v = 0; v < kPeriodVectors; ++v) store(sum + v * kLanes, vectors[v]);
    bool moved = false;
    for (int r = 0; r < kHeads; ++r) {
        for (int i = r + kHeads; i < kPeriod; i += kHeads) sum[r] += sum[i];
        tile[kTotals + r] = tile[kTotals + r] * correction[r] + sum[r];
        moved = moved || correction[r] != 1.0f;
    }
    std::memcpy(tile + kMaxima, best, sizeof best);
    if (moved) scale_results(tile + kResults, wide, correction);
}

// Hide from each row what lies outside its sight; scores begin at key `first`.
inline void hide(const Sight* sights, int64_t first, int64_t last, float* scores) {
    for (int r = 0; r < kHeads; ++r) {
        for (int64_t j = first; j < last && j < sights[r].first; ++j) scores[(j - first) * kHeads + r] = kLowest;
        const int64_t from = sights[r].last > first ? sights[r].last : first;
        for (int64_t j = from; j < last; ++j) scores[(j - first) * kHeads + r] = kLowest;
    }
}

// One tile of rows and the block of keys [start, end), of which it sees a part.
template <Number number>
inline void attend_block(const Block& block, const float* queries, const Sight* sights, int64_t start, int64_t end,
                         float* scores, float* tile) {
    int64_t first = sights[0].first, last = sights[0].last;
    for (int r = 1; r < kHeads; ++r) {
        first = first < sights[r].first ? first : sights[r].first;
        last = last > sights[r].last ? last : sights[r].last;
    }
    first = first > start ? start + (first - start) / kKeys * kKeys : start;
    last = last < end ? last : end;
    if (first >= last) return;
    const int64_t whole = padded(last - first, kKeys);
    score_block<number>(block, queries, first - start, last - start, scores);
    hide(sights, first, first + whole, scores);
    soften(scores, whole * kHeads, block.wide, tile);
    weigh_block<number>(block, scores, first - start, last - start, tile + kResults);
}

// Vectors that can be loaded where they are.
inline bool loads_directly(const Vectors& vectors, int64_t width, int64_t wide) {
    return vectors.step == 1 && width == wide;
}

struct Tiles {
    const float* queries;
    const Sight* sights;  // eight per tile
    int64_t count;
    float* results;
    float* scores;
};

template <Number number>
inline void attend_tiles(const Block& block, const Tiles& tiles, int64_t start, int64_t end) {
    for (int64_t t = 0; t < tiles.count; ++t)
        attend_block<number>(block, tiles.queries + t * kHeads * block.wide, tiles.sights + t * kHeads, start, end,
                             tiles.scores, tiles.results + t * (kResults + kHeads * block.wide));
}

// Blocks of one split, in place where that pays: few rows or plain floats, else widened once for all tiles.
inline void attend_blocks(const Rows& rows, const Tiles& tiles, int64_t first, int64_t last, int64_t wide,
                          float* space) {
    const bool direct = loads_directly(rows.keys, rows.width, wide) && loads_directly(rows.values, rows.width, wide) &&
                        rows.keys.number == rows.values.number &&
                        (tiles.count == 1 || rows.keys.number == Number::kFloat32);
    for (int64_t start = first; start < last; start += kBlock) {
        const int64_t end = start + kBlock < last ? start + kBlock : last;
        if (!direct) {
            float* values = space + kBlock * wide;
            widen_block(rows.keys, start, end, rows.width, wide, space);
            widen_block(rows.values, start, end, rows.width, wide, values);
            const Block block{reinterpret_cast<const uint8_t*>(space), reinterpret_cast<const uint8_t*>(values),
                              wide * 4, wide * 4, wide};
            attend_tiles<Number::kFloat32>(block, tiles, start, end);
            continue;
        }
        const int64_t bytes = bytes_of(rows.keys.number);
        const int64_t key_bytes = rows.keys.stride * bytes, value_bytes = rows.values.stride * bytes;
        const Block block{rows.keys.data + start * key_bytes, rows.values.data + start * value_bytes, key_bytes,
                          value_bytes, wide};
        if (rows.keys.number == Number::kFloat32) attend_tiles<Number::kFloat32>(block, tiles, start, end);
        if (rows.keys.number == Number::kFloat16) attend_tiles<Number::kFloat16>(block, tiles, start, end);
        if (rows.keys.number == Number::kBFloat16) attend_tiles<Number::kBFloat16>(block, tiles, start, end);
    }
}

inline void attend_split(const Rows& rows, int64_t first, float* results, float* space) {
    const int64_t wide = padded(rows.width, kLanes * kColumns), count = padded(rows.count, kHeads) / kHeads;
    int64_t begin = first + kSplit, end = first;  // what any row sees of the split
    for (int64_t r = 0; r < rows.count; ++r) {
        begin = rows.sights[r].first < begin ? rows.sights[r].first : begin;
        end = rows.sights[r].last > end ? rows.sights[r].last : end;
    }
    begin = begin > first ? first + (begin - first) / kBlock * kBlock : first;
    end = end < first + kSplit ? end : first + kSplit;
    const int64_t floats = tile_floats(rows.width);
    float* queries = space + 2 * kBlock * wide;
    for (int64_t t = 0; t < count; ++t) {
        float* tile = results + t * floats;
        for (int64_t i = 0; i < floats; ++i) tile[i] = 0.0f;
        for (int i = 0; i < kPeriod; ++i) tile[kMaxima + i] = kLowest;
        arrange_queries(rows, t * kHeads, wide, queries + t * kHeads * wide);
    }
    const Tiles tiles{queries, rows.sights, count, results, queries + count * kHeads * wide};
    attend_blocks(rows, tiles, begin, end, wide, space);
}

inline void begin_tile(const float* sinks, int64_t width, float* tile) {
    const int64_t floats = tile_floats(width);
    for (int64_t i = 0; i < floats; ++i) tile[i] = 0.0f;
    for (int i = 0; i < kPeriod; ++i) {
        const float sink = sinks[i % kHeads];
        tile[kMaxima + i] = sink < kLowest ? kLowest : sink > -kLowest ? -kLowest : sink;
        tile[kTotals + i] = 1.0f;
    }
}

inline void fold_tile(const float* partial, int64_t width, float* tile) {
    alignas(64) float best[kPeriod], mine[kPeriod], theirs[kPeriod];
    for (int i = 0; i < kPeriod; ++i) {
        const float a = tile[kMaxima + i], b = partial[kMaxima + i];
        best[i] = a > b ? a : b;
    }
    factors(tile + kMaxima, best, mine);
    factors(partial + kMaxima, best, theirs);
    for (int i = 0; i < kPeriod; ++i)
        tile[kTotals + i] = tile[kTotals + i] * mine[i] + partial[kTotals + i % kHeads] * theirs[i];
    std::memcpy(tile + kMaxima, best, sizeof best);
    float* results = tile + kResults;
    const float* others = partial + kResults;
    for (int64_t i = 0; i < padded(width, kLanes); i += kLanes)
        for (int r = 0; r < kHeads; ++r, results += kLanes, others += kLanes)
            store(results, fma(load(others), set1(theirs[r]), mul(load(results), set1(mine[r]))));
}

inline void finish_row(const float* tile, int64_t r, int64_t width, float* out) {
    const F total = set1(tile[kTotals + r]);
    const float* results = tile + kResults + r * kLanes;
    for (int64_t i = 0; i < width; i += kLanes) {
        const F part = div(load(results + i * kHeads), total);
        if (i + kLanes <= width) {
            store(out + i, part);
        } else {
            alignas(64) float rest[kLanes];
            store(rest, part);
            std::memcpy(out + i, rest, (width - i) * sizeof(float));
        }
    }
}

}  // namespace gptoss::GPTOSS_ISA
