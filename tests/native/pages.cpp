// The pool among threads: a block has one owner, whatever the others take, give back, limit and empty meanwhile.
#include "xent/pages.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

using namespace xent;

constexpr std::size_t unit = std::size_t(2) << 20;

void fail(const char *what) {
    std::fprintf(stderr, "%s\n", what);
    std::abort();
}

void work(unsigned number) {
    Pages &pages = Pages::instance();
    std::vector<Block *> mine;
    unsigned dice = number;
    for (int turn = 0; turn < 3000; turn++) {
        dice = dice * 1664525 + 1013904223;
        Block *block = pages.take(unit * (2 + (dice >> 28) % 4));
        if (block) {
            for (std::size_t at = 0; at < block->size; at += unit / 2)
                std::memcpy(static_cast<char *>(block->start) + at, &number, sizeof number);
            mine.push_back(block);
        }
        for (const Block *kept : mine)
            for (std::size_t at = 0; at < kept->size; at += unit / 2)
                if (std::memcmp(static_cast<const char *>(kept->start) + at, &number, sizeof number) != 0)
                    fail("a block has two owners");
        while (mine.size() > 3 || (!mine.empty() && (dice >> 24) % 3 == 0)) {
            pages.give_back(mine.back());
            mine.pop_back();
        }
        if (turn % 64 == 0) pages.empty();
        if (turn % 100 == 0) pages.set_limit(unit * (8 + (dice >> 20) % 32));
    }
    for (Block *block : mine) pages.give_back(block);
}

int main() {
    Pages &pages = Pages::instance();
    pages.set_limit(64 * unit);
    std::vector<std::thread> threads;
    for (unsigned number = 1; number <= 4; number++) threads.emplace_back(work, number);
    for (std::thread &thread : threads) thread.join();
    const Held held = pages.now();
    if (held.used != 0) fail("what was given back still counts as used");
    if (pages.empty() != held.idle || pages.now().idle != 0) fail("what is idle is not what is counted");
    std::puts("fine");
}
