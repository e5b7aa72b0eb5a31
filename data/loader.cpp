#include "data/loader.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"

namespace camo {
namespace {

constexpr uint64_t kShuffleDraws = 0x73687566666c65;  // "shuffle"

// One epoch as its batches see it. Shared with the workers, never changed.
struct EpochPlan {
  int64_t epoch = 0;
  std::vector<int64_t> order;
};

struct BadImage {
  int64_t index = 0;
  std::string message;
};

struct AssembledBatch {
  Batch batch;
  std::vector<BadImage> bad;  // in the order in which they were met
  std::exception_ptr error;
};

void check_options(const LoaderOptions& options) {
  const auto check = [](bool holds, const char* rule, int64_t got) {
    CAMO_CHECK_CODE(usage, holds, "data loader: ", rule, "; got ", got);
  };
  check(options.image_size >= 1 && options.image_size <= kMaxImageSide, "image size must be within 1 and 32768",
        options.image_size);
  check(options.batch_size >= 1, "batch size must be at least 1", options.batch_size);
  check(options.workers >= 0 && options.workers <= LoaderOptions::kMostWorkers,
        "number of workers must be within 0 and 256", options.workers);
  check(options.prefetch_batches >= 1, "batches to prefetch must be at least 1", options.prefetch_batches);
  check(options.max_bad_images >= 0, "number of bad images to skip must not be negative", options.max_bad_images);
  check(options.world_size >= 1, "world size must be at least 1", options.world_size);
  if (options.augment == AugmentationSet::strong) options.strong_augmentation.check();
  check(options.rank >= 0 && options.rank < options.world_size, "rank must be below the world size", options.rank);
}

}  // namespace

AugmentationSet parse_augmentation_set(const std::string& name) {
  if (name == "off") return AugmentationSet::off;
  if (name == "light") return AugmentationSet::light;
  CAMO_CHECK_CODE(usage, name == "strong", "--aug: must be off, light or strong; got ", name);
  return AugmentationSet::strong;
}

std::vector<int64_t> epoch_order(int64_t count, bool shuffle, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  if (!shuffle) return order;
  const auto words = philox(seed, static_cast<uint64_t>(epoch), kShuffleDraws);
  const RandomKey key{uint64_t{words[0]} << 32 | words[1], 0};
  for (int64_t i = count - 1; i > 0; --i) {
    const auto j =
        static_cast<int64_t>(uint64_t{key.bits(static_cast<uint64_t>(i))} * static_cast<uint64_t>(i + 1) >> 32);
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(j)]);
  }
  return order;
}

class DataLoader::Implementation {
 public:
  Implementation(std::vector<Sample> samples, LoaderOptions options)
      : samples_(std::move(samples)), options_(std::move(options)) {
    check_options(options_);
    CAMO_CHECK_CODE(data, !samples_.empty(), "data loader: at least one sample is needed; got none");
    const int64_t size = options_.image_size;
    if (size * size * 4 * sample_count() <= options_.cache_bytes) cache_.resize(samples_.size());
    start_epoch(0, 0);
    try {
      for (int i = 0; i < options_.workers; ++i) workers_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {  // the destructor does not run, and threads that run must be joined
      stop();
      fail(ErrorCode::general, "data loader: can't start worker ", workers_.size() + 1, " of ", options_.workers, " (",
           error.code().message(), "); use fewer workers");
    }
  }

  ~Implementation() { stop(); }

  int64_t sample_count() const { return static_cast<int64_t>(samples_.size()); }
  bool is_caching() const { return !cache_.empty(); }
  int64_t epoch() const { return plan_->epoch; }
  int64_t next_batch() const { return delivered_; }

  int64_t batches_per_epoch() const {
    const int64_t global_batch = options_.batch_size * options_.world_size;
    return options_.drop_last ? sample_count() / global_batch : (sample_count() + global_batch - 1) / global_batch;
  }

  void start_epoch(int64_t epoch, int64_t first_batch) {
    CAMO_CHECK(epoch >= 0 && first_batch >= 0 && first_batch <= batches_per_epoch(),
               "data loader: an epoch must not be negative and starts within its ", batches_per_epoch(),
               " batches; got epoch ", epoch, ", batch ", first_batch);
    auto plan = std::make_shared<EpochPlan>();
    plan->epoch = epoch;
    plan->order = epoch_order(sample_count(), options_.shuffle, options_.seed, epoch);
    {
      const std::lock_guard lock(mutex_);
      ++generation_;
      plan_ = std::move(plan);
      taken_ = delivered_ = first_batch;
      ready_.clear();
    }
    work_changed_.notify_all();
  }

  std::optional<Batch> next() {
    if (delivered_ >= batches_per_epoch()) return std::nullopt;
    AssembledBatch assembled;
    if (options_.workers == 0) {
      assembled = assemble(*plan_, delivered_++, generation_);
    } else {
      std::unique_lock lock(mutex_);
      batch_ready_.wait(lock, [&] { return ready_.contains(delivered_); });
      assembled = std::move(ready_.extract(delivered_).mapped());
      ++delivered_;
      lock.unlock();
      work_changed_.notify_all();
    }
    report_bad_images(assembled.bad);
    if (assembled.error) std::rethrow_exception(assembled.error);
    return std::move(assembled.batch);
  }

 private:
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      ++generation_;
    }
    work_changed_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void work() {
    const SerialScope serial;
    std::unique_lock lock(mutex_);
    while (true) {
      work_changed_.wait(lock, [&] {
        return stopping_ || (taken_ < batches_per_epoch() && taken_ < delivered_ + options_.prefetch_batches);
      });
      if (stopping_) return;
      const int64_t number = taken_++;
      const uint64_t generation = generation_;
      const std::shared_ptr<const EpochPlan> plan = plan_;
      lock.unlock();
      AssembledBatch assembled = assemble(*plan, number, generation);
      lock.lock();
      if (generation != generation_) continue;  // of an epoch that was left
      ready_.emplace(number, std::move(assembled));
      batch_ready_.notify_one();
    }
  }

  // Positions in the epoch's order of the samples that make up this process's part of a batch.
  std::vector<int64_t> positions(int64_t number) const {
    const int64_t first = (number * options_.world_size + options_.rank) * options_.batch_size;
    // Alone, the last batch is smaller; with several processes it wraps around, as all must do the same number of
    // steps.
    const int64_t end =
        options_.world_size == 1 ? std::min(first + options_.batch_size, sample_count()) : first + options_.batch_size;
    std::vector<int64_t> found;
    for (int64_t p = first; p < end; ++p) found.push_back(p % sample_count());
    return found;
  }

  // Stops early, with an unfinished batch that nobody will see, once `generation` has passed.
  AssembledBatch assemble(const EpochPlan& plan, int64_t number, uint64_t generation) {
    AssembledBatch result;
    try {
      const std::vector<int64_t> chosen = positions(number);
      const auto count = static_cast<int64_t>(chosen.size());
      const int64_t size = options_.image_size;
      const DType dtype = options_.raw ? u8 : f32;
      result.batch.images = empty({count, size, size, 3}, dtype, cpu);
      result.batch.masks = empty({count, size, size, 1}, dtype, cpu);
      result.batch.indices.resize(chosen.size());
      if (options_.raw) result.batch.augmentations.resize(chosen.size());
      std::vector<StrongSample> strong(options_.augment == AugmentationSet::strong ? chosen.size() : 0);
      std::vector<std::vector<BadImage>> bad(chosen.size());
      parallel_for(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end && generation == generation_; ++i) {
          const auto slot = static_cast<size_t>(i);
          int64_t index = 0;
          const auto sample = load_or_replace(plan, chosen[slot], index, bad[slot]);
          if (!sample) continue;
          result.batch.indices[slot] = index;
          if (!strong.empty()) {
            const auto drawn = draw_strong_augmentation(options_.seed, plan.epoch, index, options_.strong_augmentation);
            strong[slot] = {augment(*sample, drawn), drawn.mix_weight};
          } else {
            const Augmentation drawn = options_.augment == AugmentationSet::light
                                           ? draw_augmentation(options_.seed, plan.epoch, index, options_.augmentation)
                                           : Augmentation{};
            write_to(result.batch, i, *sample, drawn);
          }
        }
      });
      if (!strong.empty()) mix_into(result.batch, strong);
      for (auto& found : bad) std::move(found.begin(), found.end(), std::back_inserter(result.bad));
    } catch (...) {
      result.error = std::current_exception();
    }
    return result;
  }

  struct StrongSample {
    ResizedSample pixels;
    int mix_weight = kWholeMix;
  };

  // Each sample is mixed with its successor as that is before its own mixture.
  void mix_into(Batch& batch, const std::vector<StrongSample>& samples) const {
    for (const StrongSample& sample : samples)
      if (sample.pixels.mask.pixels.empty()) return;  // one could not be loaded, or the epoch was left
    const int64_t pixels = int64_t{options_.image_size} * options_.image_size;
    const auto count = static_cast<int64_t>(samples.size());
    batch.mask_levels = options_.raw ? kWholeMix : 1;
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> image(options_.raw ? 0 : static_cast<size_t>(3 * pixels)), mask(image.size() / 3);
      for (int64_t i = begin; i < end; ++i) {
        const auto slot = static_cast<size_t>(i);
        const ResizedSample& partner = samples[(slot + 1) % samples.size()].pixels;
        const StrongSample& own = samples[slot];
        if (options_.raw) {
          mix(own.pixels, partner, own.mix_weight, batch.images.data<uint8_t>() + i * pixels * 3,
              batch.masks.data<uint8_t>() + i * pixels);
        } else {
          mix(own.pixels, partner, own.mix_weight, image.data(), mask.data());
          normalize_mixed(image, mask, batch.images.data<float>() + i * pixels * 3,
                          batch.masks.data<float>() + i * pixels);
        }
      }
    });
  }

  void write_to(Batch& batch, int64_t i, const ResizedSample& sample, const Augmentation& augmentation) const {
    const int64_t pixels = int64_t{options_.image_size} * options_.image_size;
    if (options_.raw) {
      std::copy(sample.image.pixels.begin(), sample.image.pixels.end(), batch.images.data<uint8_t>() + i * pixels * 3);
      std::copy(sample.mask.pixels.begin(), sample.mask.pixels.end(), batch.masks.data<uint8_t>() + i * pixels);
      batch.augmentations[static_cast<size_t>(i)] = augmentation;
    } else {
      write_sample(sample, augmentation, batch.images.data<float>() + i * pixels * 3,
                   batch.masks.data<float>() + i * pixels);
    }
  }

  // The sample at a position of the epoch, or the first good one after it while bad images may be skipped. Null when
  // none was found; the last of `bad` then says why, and report_bad_images() throws it.
  std::shared_ptr<const ResizedSample> load_or_replace(const EpochPlan& plan, int64_t position, int64_t& index,
                                                       std::vector<BadImage>& bad) {
    for (int64_t step = 0; step < sample_count(); ++step) {
      index = plan.order[static_cast<size_t>((position + step) % sample_count())];
      try {
        return load(index);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::data) throw;
        bad.push_back({index, error.what()});
        if (static_cast<int64_t>(bad.size()) > options_.max_bad_images) return nullptr;
      }
    }
    return nullptr;
  }

  std::shared_ptr<const ResizedSample> load(int64_t index) {
    const auto slot = static_cast<size_t>(index);
    {
      const std::lock_guard lock(samples_mutex_);
      if (const auto known = known_bad_.find(index); known != known_bad_.end())
        throw Error(ErrorCode::data, known->second);
      if (is_caching() && cache_[slot]) return cache_[slot];
    }
    try {
      auto sample =
          std::make_shared<const ResizedSample>(resize_sample(load_sample(samples_[slot]), options_.image_size));
      const std::lock_guard lock(samples_mutex_);
      if (is_caching()) cache_[slot] = sample;
      return sample;
    } catch (const Error& error) {
      if (error.code() == ErrorCode::data && options_.max_bad_images > 0) {
        const std::lock_guard lock(samples_mutex_);
        known_bad_.emplace(index, error.what());
      }
      throw;
    } catch (const std::exception& error) {
      fail(ErrorCode::general, samples_[slot].image.string(), ": can't be loaded; ", error.what());
    }
  }

  // Counting at delivery, in the order of batches, makes the outcome independent of how far the workers are ahead.
  void report_bad_images(const std::vector<BadImage>& bad) {
    for (const BadImage& image : bad) {
      if (reported_bad_.contains(image.index)) continue;
      const auto limit = options_.max_bad_images;
      if (limit == 0) {
        std::string all = image.message;
        for (size_t i = 1; i < bad.size(); ++i) all += "\n" + bad[i].message;
        throw Error(ErrorCode::data, all);
      }
      CAMO_CHECK_CODE(data, static_cast<int64_t>(reported_bad_.size()) < limit, image.message, "\n  after ", limit,
                      " other bad images, which is as many as may be skipped");
      reported_bad_.insert(image.index);
      if (options_.on_bad_image) options_.on_bad_image(image.message);
    }
    CAMO_CHECK_CODE(data, static_cast<int64_t>(reported_bad_.size()) < sample_count(), "data loader: none of the ",
                    sample_count(),
                    " samples can be read; the first: ", bad.empty() ? std::string() : bad.front().message);
  }

  const std::vector<Sample> samples_;
  const LoaderOptions options_;

  std::mutex mutex_;  // guards the fields up to ready_
  std::condition_variable work_changed_, batch_ready_;
  bool stopping_ = false;
  std::atomic<uint64_t> generation_{0};  // grows when work begun before is to be dropped; read without the lock
  std::shared_ptr<const EpochPlan> plan_;
  int64_t taken_ = 0;      // number of the batch that a worker takes next
  int64_t delivered_ = 0;  // number of the batch that next() returns next; written by the caller's thread only
  std::map<int64_t, AssembledBatch> ready_;

  std::mutex samples_mutex_;                                 // guards the two below
  std::vector<std::shared_ptr<const ResizedSample>> cache_;  // empty when the samples do not fit
  std::map<int64_t, std::string> known_bad_;

  std::set<int64_t> reported_bad_;  // caller's thread only
  std::vector<std::thread> workers_;
};

DataLoader::DataLoader(std::vector<Sample> samples, LoaderOptions options)
    : implementation_(std::make_unique<Implementation>(std::move(samples), std::move(options))) {}
DataLoader::~DataLoader() = default;

int64_t DataLoader::sample_count() const { return implementation_->sample_count(); }
int64_t DataLoader::batches_per_epoch() const { return implementation_->batches_per_epoch(); }
bool DataLoader::is_caching() const { return implementation_->is_caching(); }
void DataLoader::start_epoch(int64_t epoch, int64_t first_batch) { implementation_->start_epoch(epoch, first_batch); }
std::optional<Batch> DataLoader::next() { return implementation_->next(); }
int64_t DataLoader::next_batch() const { return implementation_->next_batch(); }
int64_t DataLoader::epoch() const { return implementation_->epoch(); }

}  // namespace camo
