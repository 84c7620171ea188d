// Programmatic dependent launch: a grid that may start before its predecessor in the stream has ended.
#pragma once
#include "types.cuh"

namespace hadal {

// griddepcontrol.wait
// PTX 7.8, sm_90. Until every grid that this one depends on has ended and its writes are visible. Nothing to wait for in an
// ordinary launch.
__device__ __forceinline__ void grid_wait_for_predecessors() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

// griddepcontrol.launch_dependents
// PTX 7.8, sm_90. Dependents may be scheduled once every CTA has said so or ended. It publishes nothing: they wait, as above.
__device__ __forceinline__ void grid_launch_dependents() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace hadal
