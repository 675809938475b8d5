// Persistent threads, the barriers between the stages of a step, and how many threads a step gets.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "simd.h"

namespace fathom {

using Clock = std::chrono::steady_clock;

// Waiting spins for a moment, since the others are nearly always microseconds away, and then sleeps. Sleeping matters when
// other processes want the cores: a core that spins or yields looks busy, so the scheduler leaves the thread that everyone
// waits for where it is, behind the other process; to a core that falls idle it can be moved.
class Barrier {
 public:
  void set_threads(int threads) { threads_ = threads; }
  void wait() {
    const int threads = threads_;  // read before arriving: once all have arrived, the next call may change it
    if (threads == 1) return;
    const int phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      phase_.notify_all();
      return;
    }
    for (int i = 0; i < 2000; i++) {
      if (phase_.load(std::memory_order_acquire) != phase) return;
      pause_thread();
    }
    const Clock::time_point asleep = Clock::now();
    phase_.wait(phase, std::memory_order_acquire);
    slept_.fetch_add((Clock::now() - asleep).count(), std::memory_order_relaxed);
  }
  // Time that threads have slept here since the last call, summed over threads.
  Clock::duration take_slept() { return Clock::duration(slept_.exchange(0, std::memory_order_relaxed)); }

 private:
  int threads_ = 1;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
  std::atomic<Clock::rep> slept_{0};
};

// The caller is thread 0; the others sleep between calls.
//
// A thread whose core another process has taken holds up all the others at the next barrier, for a time slice each time: on two
// cores with one busy neighbour, two threads are several times slower than one. So when threads have spent much of two
// calls in a row asleep, waiting, the next get one thread less, for longer each time that trying with more has failed again.
class Pool {
 public:
  explicit Pool(int threads) : size_(threads), active_(threads) {
    for (int id = 1; id < threads; id++) workers_.emplace_back([this, id] { work(id); });
  }
  ~Pool() {
    task_ = nullptr;
    announce(size_);
    for (std::thread& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }
  // Threads of the call that runs, or of the next.
  int active() const { return active_; }

  // Runs task(thread) on the active threads and returns when all are done. Tasks must not throw.
  template <class Task>
  void run(Task task) {
    context_ = &task;
    task_ = [](void* context, int id) { (*static_cast<Task*>(context))(id); };
    barrier.set_threads(active_);
    const Clock::time_point begun = Clock::now();
    announce(active_);
    task(0);
    barrier.wait();
    adapt(begun);
  }

  Barrier barrier;

 private:
  static constexpr int kCallShift = 16;  // the low bits of call_ hold the number of threads it is for
  static constexpr std::chrono::milliseconds kFirstPause{30}, kLongestPause{500};

  void announce(int threads) {
    call_.store((call_.load(std::memory_order_relaxed) >> kCallShift << kCallShift) + (1u << kCallShift) + uint32_t(threads),
                std::memory_order_release);
    if (size_ > 1) call_.notify_all();
  }

  void work(int id) {
    for (uint32_t seen = 0;;) {
      for (int i = 0; i < 2000 && call_.load(std::memory_order_acquire) == seen; i++) pause_thread();
      call_.wait(seen, std::memory_order_acquire);
      seen = call_.load(std::memory_order_acquire);
      // A call that this thread is not part of may already be over; one that it is part of waits for it.
      if (id >= int(seen & ((1u << kCallShift) - 1))) continue;
      if (!task_) return;
      task_(context_, id);
      barrier.wait();
    }
  }

  void adapt(Clock::time_point begun) {
    const Clock::time_point now = Clock::now();
    const Clock::duration took = now - begun, slept = barrier.take_slept();
    const bool disturbed = took > std::chrono::microseconds(500) && slept > took * (active_ - 1) / 3;
    disturbed_ = disturbed ? disturbed_ + 1 : 0;
    if (active_ > 1 && disturbed_ >= 2) {
      active_--;
      disturbed_ = 0;
      retry_ = now + pause_;
      pause_ = std::min<Clock::duration>(pause_ * 2, kLongestPause);
    } else if (active_ < size_ && now > retry_) {
      active_++;
      retry_ = now + pause_;
    } else if (active_ == size_ && now > retry_ + kLongestPause) {
      pause_ = kFirstPause;  // undisturbed for long enough
    }
  }

  const int size_;
  int active_, disturbed_ = 0;  // calls in a row that were disturbed
  Clock::duration pause_ = kFirstPause;
  Clock::time_point retry_{};
  std::vector<std::thread> workers_;
  alignas(64) std::atomic<uint32_t> call_{0};
  void* context_ = nullptr;
  void (*task_)(void*, int) = nullptr;
};

}  // namespace fathom
