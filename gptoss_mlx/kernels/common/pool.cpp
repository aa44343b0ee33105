#include "common/pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace gptoss {
namespace {

constexpr int kSpins = 4000;  // some 100 microseconds: longer than the gap between two operations of a layer

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Physical cores among the processors that this process may run on: two threads on one core share its vector units.
int physical_cores() {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return int(std::max(1u, std::thread::hardware_concurrency()));
    std::set<std::pair<int, int>> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
        int package = 0, core = cpu;
        std::ifstream(topology + "physical_package_id") >> package;
        if (!(std::ifstream(topology + "core_id") >> core)) core = cpu;
        cores.insert({package, core});
    }
    return std::max<int>(1, int(cores.size()));
}

int threads_asked_for() {
    const char* text = std::getenv("GPTOSS_NUM_THREADS");
    if (text == nullptr || *text == '\0') return physical_cores();
    char* end = nullptr;
    const long count = std::strtol(text, &end, 10);
    if (*end != '\0' || count < 1 || count > 1024)
        throw std::invalid_argument(std::string("GPTOSS_NUM_THREADS: a number from 1 to 1024 expected, '") + text +
                                    "' found");
    return int(count);
}

class Pool {
  public:
    explicit Pool(int count) : count_(count) {
        for (int i = 1; i < count; ++i) workers_.emplace_back([this] { work(); });
    }

    ~Pool() {
        stopping_.store(true);
        generation_.fetch_add(1);
        generation_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    int count() const { return count_; }

    void run(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
        body_ = &body;
        total_ = count;
        grain_ = grain;
        next_.store(0);
        open_.store(true);
        generation_.fetch_add(1);
        generation_.notify_all();
        take_pieces();
        open_.store(false);  // whoever has not begun by now stays out
        while (inside_.load() != 0) relax();
    }

  private:
    void take_pieces() {
        for (;;) {
            const int64_t first = next_.fetch_add(grain_);
            if (first >= total_) return;
            (*body_)(first, std::min(first + grain_, total_));
        }
    }

    void work() {
        uint32_t seen = 0;
        for (;;) {
            for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_relaxed) == seen; ++spin) relax();
            generation_.wait(seen);
            seen = generation_.load();
            if (stopping_.load()) return;
            inside_.fetch_add(1);  // before looking at open_: the caller closes first and counts then
            if (open_.load()) take_pieces();
            inside_.fetch_sub(1);
        }
    }

    const int count_;
    std::vector<std::thread> workers_;
    const std::function<void(int64_t, int64_t)>* body_ = nullptr;
    int64_t total_ = 0, grain_ = 1;
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<int> inside_{0};
    std::atomic<bool> open_{false}, stopping_{false};
};

// Leaked on purpose: threads must not be joined while the process exits, and a forked child has none of them.
std::mutex* g_mutex = new std::mutex;
Pool* g_pool = nullptr;
int g_threads = 0;

void forget_after_fork() {
    g_mutex = new std::mutex;
    g_pool = nullptr;
}

thread_local bool t_inside = false;

}  // namespace

int threads() {
    std::lock_guard lock(*g_mutex);
    if (g_threads == 0) g_threads = threads_asked_for();
    return g_threads;
}

void set_threads(int count) {
    if (count < 1) throw std::invalid_argument("threads: 1 or more expected, " + std::to_string(count) + " found");
    std::lock_guard lock(*g_mutex);
    if (g_pool != nullptr && g_pool->count() != count) delete std::exchange(g_pool, nullptr);
    g_threads = count;
}

void parallel(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
    if (count <= 0) return;
    const int wanted = threads();
    if (wanted == 1 || count <= grain || t_inside) {
        for (int64_t first = 0; first < count; first += grain) body(first, std::min(first + grain, count));
        return;
    }
    std::lock_guard lock(*g_mutex);
    if (g_pool == nullptr) {
        static std::once_flag once;
        std::call_once(once, [] { pthread_atfork(nullptr, nullptr, forget_after_fork); });
        g_pool = new Pool(g_threads);
    }
    t_inside = true;
    g_pool->run(count, grain, body);
    t_inside = false;
}

void* scratch(int slot, size_t bytes) {
    struct Block {
        std::unique_ptr<char, void (*)(void*)> data{nullptr, std::free};
        size_t size = 0;
    };
    thread_local Block blocks[4];
    Block& block = blocks[slot];
    if (block.size < bytes) {
        const size_t size = (bytes + bytes / 2 + 4095) / 4096 * 4096;
        block.data.reset();
        block.data.reset(static_cast<char*>(std::aligned_alloc(64, size)));
        if (block.data == nullptr) throw std::bad_alloc();
        block.size = size;
    }
    return block.data.get();
}

}  // namespace gptoss
