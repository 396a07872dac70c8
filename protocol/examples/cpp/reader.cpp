// SPDX-License-Identifier: Apache-2.0
// reader.cpp - read a word index in C++20: map the region, follow its pointers by spans and iterators.
//
//     c++ -std=c++20 -I$(python -m shmprotocol --include) -I.. reader.cpp -o reader
//     shmclient exec --region words -- ./reader words import yield
//
// Prints what ../reader.c prints. Exit codes: 0 all words found, 1 one is missing, 2 wrong usage, 3 no such region.
#include "shm_abi.h"
#include "word_index.h"

#include <algorithm>
#include <iostream>
#include <iterator>
#include <memory>
#include <ranges>
#include <span>
#include <string_view>
#include <system_error>

// A mapped region. Its pointers are valid as long as it lives.
class Region {
public:
        explicit Region(const char *name)
        {
                const shm_region_header *mapped = nullptr;
                if (int error = shm_region_map(shm_region_fd(name), &mapped); error != 0)
                        throw std::system_error(-error, std::generic_category(), name);
                header_.reset(mapped);
        }

        const shm_region_header &header() const { return *header_; }

        // The object at the root; nullptr where there is none of this size.
        template <typename T> const T *root() const
        {
                return header_->root_size >= sizeof(T) ? static_cast<const T *>(header_->root) : nullptr;
        }

        std::span<const std::byte> data() const
        {
                return {static_cast<const std::byte *>(header_->data), header_->data_size};
        }

private:
        struct Unmap {
                void operator()(const shm_region_header *header) const { shm_region_unmap(header); }
        };
        std::unique_ptr<const shm_region_header, Unmap> header_;
};

// The entries of a bucket, linked by their pointers, as a range.
class Chain : public std::ranges::view_interface<Chain> {
public:
        class Iterator {
        public:
                using value_type = entry;
                using difference_type = std::ptrdiff_t;
                Iterator() = default;
                explicit Iterator(const entry *at) : at_(at) {}
                const entry &operator*() const { return *at_; }
                Iterator &operator++() { return at_ = at_->next, *this; }
                Iterator operator++(int)
                {
                        Iterator before = *this;
                        ++*this;
                        return before;
                }
                bool operator==(const Iterator &) const = default;

        private:
                const entry *at_ = nullptr;
        };

        explicit Chain(const entry *first) : first_(first) {}
        Iterator begin() const { return Iterator(first_); }
        Iterator end() const { return Iterator(); }

private:
        const entry *first_;
};
static_assert(std::forward_iterator<Chain::Iterator>);

static std::string_view text(const entry &each) { return {each.word, each.word_size}; }

static const entry *find(const word_index &index, std::string_view word)
{
        std::span buckets(index.buckets, index.bucket_count);
        Chain chain(buckets[word_hash(word.data(), word.size()) & (buckets.size() - 1)]);
        auto hit = std::ranges::find(chain, word, text);
        return hit == chain.end() ? nullptr : &*hit;
}

static bool print_places(const word_index &index, std::string_view word)
{
        const entry *hit = find(index, word);
        if (hit == nullptr) {
                std::cerr << "reader: " << word << " does not occur\n";
                return false;
        }
        std::cout << text(*hit) << ": " << hit->posting_count << " places\n";
        std::span files(index.files, index.file_count);
        for (const posting &each : std::span(hit->postings, hit->posting_count))
                std::cout << "  " << files[each.file] << ':' << each.line << '\n';
        return true;
}

int main(int argc, char **argv)
try {
        std::span arguments(argv, static_cast<std::size_t>(argc));
        if (arguments.size() < 3) {
                std::cerr << "usage: reader NAME WORD...\n";
                return 2;
        }
        Region region(arguments[1]);
        const auto *index = region.root<word_index>();
        if (index == nullptr) {
                std::cerr << "reader: " << arguments[1] << " holds no word index\n";
                return 3;
        }
        std::cout << region.header().name << " at " << region.header().base << ": " << index->entry_count
                  << " words in " << index->file_count << " files\n";
        bool all = true;
        for (std::string_view word : arguments.subspan(2))
                all = print_places(*index, word) && all;
        return all ? 0 : 1;
} catch (const std::system_error &error) {
        std::cerr << "reader: cannot map " << error.what() << " (is it in $SHM_REGIONS? see shmclient exec)\n";
        return 3;
}
