#include "cpu/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace saccade {
namespace {

using Body = void (*)(void* arg, int64_t i);

struct Job {
  Job(int64_t n, Body body, void* arg) : n(n), body(body), arg(arg) {}

  int64_t n;
  Body body;
  void* arg;
  std::atomic<int64_t> next{0};
  std::once_flag failed;
  std::exception_ptr error;

  void work() {
    try {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) body(arg, i);
    } catch (...) {
      next.store(n, std::memory_order_relaxed);
      std::call_once(failed, [&] { error = std::current_exception(); });
    }
  }
};

thread_local bool inside = false;  // a body runs on this thread

/// One job at a time; workers sleep between jobs. Never destroyed, so that no exit handler can meet a joined pool.
class Pool {
 public:
  void run(int threads, int64_t n, Body body, void* arg) {
    std::unique_lock busy(busy_, std::defer_lock);
    if (inside || !busy.try_lock()) {  // nested or concurrent: here, serially
      for (int64_t i = 0; i < n; ++i) body(arg, i);
      return;
    }
    Job job(n, body, arg);
    const int helpers = static_cast<int>(std::min<int64_t>(threads, n)) - 1;
    {
      std::lock_guard lock(mutex_);
      grow(helpers);
      job_ = &job;
      seats_ = helpers;
    }
    wake_.notify_all();
    inside = true;
    job.work();
    inside = false;
    std::unique_lock lock(mutex_);
    seats_ = 0;
    done_.wait(lock, [&] { return active_ == 0; });
    lock.unlock();
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  void grow(int workers) {
    try {
      for (; workers_ < workers; ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {  // no more threads to be had: the caller works all the same
    }
  }

  void serve() {
    inside = true;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return seats_ > 0; });
      --seats_;
      ++active_;
      Job* job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int seats_ = 0, active_ = 0, workers_ = 0;
};

std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
  // A forked child has none of its parent's threads, and condition variables that may never wake: it starts afresh.
  static const int once = pthread_atfork(nullptr, nullptr, [] {
    pool = nullptr;
    inside = false;
  });
  static_cast<void>(once);
  Pool* p = pool;
  if (!p) {
    Pool* fresh = new Pool;
    if (pool.compare_exchange_strong(p, fresh))
      p = fresh;
    else
      delete fresh;
  }
  return *p;
}

}  // namespace

Context pool_context(int threads) {
  Context c;
  c.threads = threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  c.parallel_self = reinterpret_cast<void*>(static_cast<intptr_t>(c.threads));
  c.parallel_for = [](void* self, int64_t n, Body body, void* arg) {
    the_pool().run(static_cast<int>(reinterpret_cast<intptr_t>(self)), n, body, arg);
  };
  return c;
}

}  // namespace saccade
