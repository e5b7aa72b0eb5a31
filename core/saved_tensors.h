// Watching what operations keep for backward, so that it can be kept in a smaller form.
#pragma once

#include <vector>

#include "core/autograd.h"

namespace camo {

/// Lists the fields that operations of this thread fill within its scope.
class SavedTensors {
 public:
  struct Field {
    Saved* saved;
    const char* name;
  };

  SavedTensors();
  ~SavedTensors();
  SavedTensors(const SavedTensors&) = delete;
  SavedTensors& operator=(const SavedTensors&) = delete;

  /// In the order in which they were filled. Valid while their nodes live.
  const std::vector<Field>& fields() const { return fields_; }

 private:
  friend class Saved;
  std::vector<Field> fields_;
  SavedTensors* before_;
};

}  // namespace camo
