// One pool of threads for the whole process, however many models and Python threads use it.
#pragma once

#include <cstdint>
#include <functional>

namespace gptoss {

// Threads that work on a region, the calling one included: GPTOSS_NUM_THREADS, else one per physical core that
// this process may run on.
int threads();

// Change the number of threads; for tests. Waits for a running region.
void set_threads(int count);

// Call body(first, last) until [0, count) is covered, in pieces of at most `grain`, on all threads. Pieces are
// handed out in ascending order. One region runs at a time; a second caller waits, so that two models never run on
// more threads than there are. The result must not depend on which thread took which piece.
void parallel(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

// At least `bytes` bytes that belong to the calling thread until its next call with the same slot (0 to 3);
// aligned to a cache line.
void* scratch(int slot, size_t bytes);

}  // namespace gptoss
