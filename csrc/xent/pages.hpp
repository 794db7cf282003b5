// Memory for large results, mapped once and taken again and again: a fresh page costs a fault, 1 to 2 us every 4 KB,
// which is four fifths of the time of a large gradient. What lies idle is the system's to take (MADV_FREE), but for one
// small block.
#pragma once

#include <cstddef>
#include <mutex>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#define XENT_PAGES 1
#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#if defined(__linux__) && !defined(MADV_FREE)
#define MADV_FREE 8  // Linux 4.5; the headers of wheels (glibc 2.17) are older
#endif
#if !defined(MADV_FREE) || !defined(MAP_ANON)
#undef XENT_PAGES
#endif
#endif

namespace xent {

struct Block {
    void *start;
    std::size_t size;
    Block *next;
    bool free;  // marked as the system's to take
};

struct Held {
    std::size_t idle, used;
};

#ifdef XENT_PAGES

class Pages {
  public:
    // Never destroyed: tensors die as late as they like, on any thread, after the interpreter and after static objects.
    static Pages &instance() {
        static Pages *const pages = new Pages;
        return *pages;
    }

    // A block of at least so many bytes, of any content, that nobody else has until `give_back`; nullptr where the
    // block would not be kept, or where there is no memory.
    Block *take(std::size_t bytes) {
        Block *block = nullptr;
        {
            const std::lock_guard<std::mutex> lock(mutex);
            if (bytes == 0 || bytes > limit) return nullptr;
            bytes = (bytes + unit - 1) / unit * unit;
            if (bytes > limit) return nullptr;
            if ((block = fitting(bytes))) {
                held.idle -= block->size;
                held.used += block->size;
                return block;
            }
        }
        block = map(bytes);
        if (!block && empty() > 0) block = map(bytes);
        if (!block) return nullptr;
        const std::lock_guard<std::mutex> lock(mutex);
        held.used += block->size;
        return block;
    }

    // Only the last owner may call it. From here on the system may take the pages away, at a moment of its own, even
    // between the next `take` and the first write: a taker may not care about the content, and a write to a page
    // keeps it. A small block is spared that until another is given back: the first write to pages that are free took
    // 12 us for each MB, a third of the time of copying them.
    void give_back(Block *block) noexcept {
        block->free = block->size > small && mark(block);
        const bool kept = block->free || block->size <= small;
        Block *old = nullptr, *refused = nullptr;
        {
            const std::lock_guard<std::mutex> lock(mutex);
            held.used -= block->size;
            if (kept) {
                if (idle && !idle->free && !(idle->free = mark(idle))) {
                    refused = idle;
                    idle = idle->next;
                    held.idle -= refused->size;
                }
                block->next = idle;
                idle = block;
                held.idle += block->size;
                old = beyond(limit);
            }
        }
        unmap(kept ? old : alone(block));
        if (refused) unmap(alone(refused));
    }

    // How many bytes may lie idle; nothing is kept at 0.
    void set_limit(std::size_t bytes) {
        Block *old;
        {
            const std::lock_guard<std::mutex> lock(mutex);
            limit = bytes;
            old = beyond(limit);
        }
        unmap(old);
    }

    // Unmaps what is idle; how many bytes that was.
    std::size_t empty() {
        Block *old;
        {
            const std::lock_guard<std::mutex> lock(mutex);
            old = beyond(0);
        }
        return unmap(old);
    }

    Held now() {
        const std::lock_guard<std::mutex> lock(mutex);
        return held;
    }

  private:
    static constexpr std::size_t unit = std::size_t(2) << 20;  // a huge page of x86-64, and of ARM with pages of 4 KB

    static constexpr std::size_t small = std::size_t(32) << 20;  // as much as glibc keeps of what a program has freed

    std::mutex mutex;
    std::size_t limit = 0;
    Held held{0, 0};
    Block *idle = nullptr;  // newest first

    // The lock is held across a fork, so that the child never inherits it from a thread that it does not have.
    Pages() {
        pthread_atfork([] { instance().mutex.lock(); }, [] { instance().mutex.unlock(); },
                       [] {
                           Pages &pages = instance();
                           // The child's copy would keep alive whatever the parent writes over. Blocks in use stay.
                           unmap(pages.beyond(0));
                           pages.mutex.unlock();
                       });
    }

    // Takes the smallest idle block with room for `bytes` off the list, if these are 80 % of it at least.
    Block *fitting(std::size_t bytes) {
        Block **best = nullptr;
        for (Block **at = &idle; *at; at = &(*at)->next)
            if ((*at)->size >= bytes && (*at)->size - bytes <= bytes / 4 && (!best || (*at)->size < (*best)->size))
                best = at;
        if (!best) return nullptr;
        Block *block = *best;
        *best = block->next;
        return block;
    }

    // Takes the oldest idle blocks off the list, as long as it holds more than `bytes`.
    Block *beyond(std::size_t bytes) {
        Block **at = &idle;
        for (std::size_t kept = 0; *at && (*at)->size <= bytes - kept; at = &(*at)->next) kept += (*at)->size;
        Block *old = *at;
        *at = nullptr;
        for (Block *block = old; block; block = block->next) held.idle -= block->size;
        return old;
    }

    // Not before Linux 4.5, nor where memory is locked.
    static bool mark(Block *block) { return madvise(block->start, block->size, MADV_FREE) == 0; }

    static Block *alone(Block *block) {
        block->next = nullptr;
        return block;
    }

    // Outside the lock, since it takes milliseconds. A fork in between leaves these pages mapped in the child.
    static std::size_t unmap(Block *block) {
        std::size_t bytes = 0;
        while (block) {
            Block *next = block->next;
            munmap(block->start, block->size);
            bytes += block->size;
            delete block;
            block = next;
        }
        return bytes;
    }

    static Block *map(std::size_t bytes) {
        Block *block = new (std::nothrow) Block{nullptr, bytes, nullptr, false};
        if (!block) return nullptr;
        void *room = mmap(nullptr, bytes + unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
        if (room == MAP_FAILED) {
            delete block;
            return nullptr;
        }
        const std::size_t before = (unit - reinterpret_cast<std::uintptr_t>(room) % unit) % unit;
        char *start = static_cast<char *>(room) + before;
        if (before > 0) munmap(room, before);
        if (before < unit) munmap(start + bytes, unit - before);
        block->start = start;
#ifdef MADV_HUGEPAGE
        madvise(start, bytes, MADV_HUGEPAGE);  // a wish: nothing depends on it but time
#endif
        return block;
    }
};

#else

class Pages {
  public:
    static Pages &instance() {
        static Pages pages;
        return pages;
    }
    Block *take(std::size_t) { return nullptr; }
    void give_back(Block *) noexcept {}
    void set_limit(std::size_t) {}
    std::size_t empty() { return 0; }
    Held now() { return {0, 0}; }
};

#endif

}  // namespace xent
