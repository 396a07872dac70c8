// SPDX-License-Identifier: Apache-2.0
// arena_reader.cpp - wait for the values of a name in an arena, in C++20; each is held while it is looked at.
//
//     c++ -std=c++20 -I$(python -m shmprotocol --include) arena_reader.cpp -o arena_reader
//     shmclient exec --region camera -- ./arena_reader camera front 10
//
// Prints of each value its generation, its bytes, and the sum of these. Exit codes: 0, 1 no value came for ten seconds,
// 2 wrong usage, 3 the arena cannot be read.
#include "shm_arena.h"

#include <chrono>
#include <iostream>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

static void check(int error, const char *what)
{
        if (error != 0)
                throw std::system_error(-error, std::generic_category(), what);
}

// An arena that this program inherited, and the words that say which of its values are held.
class Arena {
public:
        explicit Arena(const char *name) { check(shm_arena_open_inherited(name, &arena_, &holds_), name); }
        ~Arena() { shm_arena_unmap(&arena_); }
        Arena(const Arena &) = delete;
        Arena &operator=(const Arena &) = delete;

        // A value that does not change, and whose memory is not used again, until this goes.
        class Value {
        public:
                Value(Arena &arena, std::string_view name, std::uint64_t after, std::chrono::nanoseconds wait)
                    : holds_(arena.holds_)
                {
                        check(shm_arena_await(&arena.arena_, &holds_, name.data(), name.size(), after, wait.count(), &value_),
                              "no value");
                }
                ~Value() { shm_arena_release(&holds_, &value_); }
                Value(const Value &) = delete;
                Value &operator=(const Value &) = delete;

                std::uint64_t generation() const { return value_.generation; }
                std::span<const std::uint8_t> bytes() const
                {
                        return {static_cast<const std::uint8_t *>(value_.data), value_.size};
                }

        private:
                shm_holds &holds_;
                shm_arena_value value_{};
        };

private:
        shm_arena arena_{};
        shm_holds holds_{};
};

int main(int argc, char **argv)
try {
        if (argc < 3) {
                std::cerr << "usage: arena_reader ARENA NAME [COUNT]\n";
                return 2;
        }
        Arena arena(argv[1]);
        std::uint64_t count = argc > 3 ? std::stoull(argv[3]) : UINT64_MAX, after = 0;
        while (count-- > 0) {
                Arena::Value value(arena, argv[2], after, std::chrono::seconds(10));
                auto bytes = value.bytes();
                std::cout << value.generation() << ' ' << bytes.size() << ' '
                          << std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0}) << std::endl;
                after = value.generation();
        }
        return 0;
} catch (const std::system_error &error) {
        std::cerr << "arena_reader: " << error.what() << '\n';
        return error.code() == std::errc::timed_out ? 1 : 3;
}
