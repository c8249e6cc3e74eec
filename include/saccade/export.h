#pragma once

/// Marks what libsaccade exports; everything else is hidden.
#define SACCADE_API __attribute__((visibility("default")))
