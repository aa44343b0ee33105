// Attention over one split of the keys in float32: scores, a softmax that is carried from block to block, and the
// weighted sum of the values. Compiled once per instruction set.
//
// Eight rows share every key and value that is loaded. Scores of a block lie as [key][row], so that maxima,
// exponentials and sums work on whole vectors and each result's own arithmetic is the same whoever shares its tile.
#pragma once

#include "attention/vectors.h"

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
    return padded(rows, kHeads) * wide + 2 * kBlock * wide + (kSplit + kKeys) * kHeads +
           2 * source_space(kSplit, width);
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

struct Block {
    Source keys, values;
    int64_t wide;  // width in whole tiles of results
    bool asks;     // for memory ahead: the first tile does it for all
};

// Bring vectors [first, last) of a source to the second-level cache. Left to itself the processor does not look far
// enough ahead: too much work lies between the loads.
inline void ask_for(const Source& source, int64_t first, int64_t last) {
    for (int64_t at = first * source.stride; at < last * source.stride; at += 64)
        __builtin_prefetch(source.data + at, 0, 2);
}

// scores[(key - first) * 8 + row], from an even key on; a last key without a partner is computed twice.
template <Format format>
[[gnu::flatten]] inline void score_block(const Block& block, const float* queries, int64_t first, int64_t last,
                                         float* scores) {
    constexpr int kSums = kHeads * kKeys;
    for (int64_t j = first; j < last; j += kKeys, scores += kSums) {
        if (block.asks) ask_for(block.keys, j + kBlock, j + kBlock + kKeys);
        Reader<format> keys[kKeys];
        for (int c = 0; c < kKeys; ++c) keys[c] = Reader<format>(block.keys, j + c < last ? j + c : last - 1);
        F dots[kSums];
#pragma GCC unroll 32
        for (int i = 0; i < kSums; ++i) dots[i] = zero();
        const float* query = queries;
        for (int64_t i = 0; i < block.wide; i += kLanes, query += kHeads * kLanes) {
            F key[kKeys];
#pragma GCC unroll 4
            for (int c = 0; c < kKeys; ++c) key[c] = keys[c].load(i);
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
template <Format format>
inline void weigh_block(const Block& block, const float* weights, int64_t first, int64_t last, float* results) {
    for (int64_t i = 0; i < block.wide; i += kColumns * kLanes, results += kColumns * kHeads * kLanes) {
        F total[kColumns][kHeads];
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 8
            for (int r = 0; r < kHeads; ++r) total[c][r] = load(results + (c * kHeads + r) * kLanes);
        const float* weight = weights;
        for (int64_t j = first; j < last; ++j, weight += kHeads) {
            if (block.asks && i == 0) ask_for(block.values, j + kBlock, j + kBlock + 1);
            const Reader<format> value(block.values, j);
            F part[kColumns];
#pragma GCC unroll 4
            for (int c = 0; c < kColumns; ++c) part[c] = value.load(i + c * kLanes);
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

// One tile of rows and the blocks of keys [start, end), of which it sees a part. First all scores, then all values:
// long stretches of memory are read faster than short ones in turns.
template <Format format>
inline void attend_span(const Block& block, const float* queries, const Sight* sights, int64_t start, int64_t end,
                        float* scores, float* tile) {
    int64_t first = sights[0].first, last = sights[0].last;
    for (int r = 1; r < kHeads; ++r) {
        first = first < sights[r].first ? first : sights[r].first;
        last = last > sights[r].last ? last : sights[r].last;
    }
    first = first > start ? start + (first - start) / kKeys * kKeys : start;
    last = last < end ? last : end;
    const auto blocks = [&](auto act) {
        for (int64_t from = first; from < last;) {
            const int64_t next = start + ((from - start) / kBlock + 1) * kBlock, to = next < last ? next : last;
            act(from, to, padded(to - from, kKeys), scores + (from - start) * kHeads);
            from = to;
        }
    };
    blocks([&](int64_t from, int64_t to, int64_t whole, float* own) {
        score_block<format>(block, queries, from - start, to - start, own);
        hide(sights, from, from + whole, own);
    });
    blocks([&](int64_t from, int64_t to, int64_t whole, float* own) {
        soften(own, whole * kHeads, block.wide, tile);
        weigh_block<format>(block, own, from - start, to - start, tile + kResults);
    });
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

template <Format format>
inline void attend_tiles(Block block, const Tiles& tiles, int64_t start, int64_t end) {
    for (int64_t t = 0; t < tiles.count; ++t, block.asks = false)
        attend_span<format>(block, tiles.queries + t * kHeads * block.wide, tiles.sights + t * kHeads, start, end,
                            tiles.scores, tiles.results + t * (kResults + kHeads * block.wide));
}

inline void attend_tiles(Format format, const Block& block, const Tiles& tiles, int64_t start, int64_t end) {
    switch (format) {
        case Format::kFloat16:
            return attend_tiles<Format::kFloat16>(block, tiles, start, end);
        case Format::kBFloat16:
            return attend_tiles<Format::kBFloat16>(block, tiles, start, end);
        case Format::kAffine8:
            return attend_tiles<Format::kAffine8>(block, tiles, start, end);
        case Format::kAffine4:
            return attend_tiles<Format::kAffine4>(block, tiles, start, end);
        default:
            return attend_tiles<Format::kFloat32>(block, tiles, start, end);
    }
}

// Blocks of one split, in place where that pays: few rows or plain floats, else widened once for all tiles.
inline void attend_blocks(const Rows& rows, const Tiles& tiles, int64_t first, int64_t last, int64_t wide, float* space,
                          float* group_space) {
    const Format format = rows.keys.format;
    const bool direct = loads_directly(rows.keys, rows.width, wide) && loads_directly(rows.values, rows.width, wide) &&
                        format == rows.values.format && (tiles.count == 1 || format == Format::kFloat32);
    const int64_t span = direct && tiles.count == 1 ? kSplit : kBlock;  // tiles find a block in the cache
    for (int64_t start = first; start < last; start += span) {
        const int64_t end = start + span < last ? start + span : last, count = end - start;
        Source keys = source_of(rows.keys, start, end, rows.width, group_space);
        Source values = source_of(rows.values, start, end, rows.width, group_space + source_space(kSplit, rows.width));
        if (!direct) {
            keys = widened(keys, rows.keys, count, rows.width, wide, space);
            values = widened(values, rows.values, count, rows.width, wide, space + kBlock * wide);
        }
        attend_tiles(direct ? format : Format::kFloat32, Block{keys, values, wide, direct}, tiles, start, end);
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
    float* scores = queries + count * kHeads * wide;
    const Tiles tiles{queries, rows.sights, count, results, scores};
    attend_blocks(rows, tiles, begin, end, wide, space, scores + (kSplit + kKeys) * kHeads);
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
