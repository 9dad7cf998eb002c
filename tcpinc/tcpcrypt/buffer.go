package tcpcrypt

import "sync"

// Buffers come in three sizes, so that a connection with little to say does not hold what bulk transfer needs.
const (
	smallBuffer = 4 << 10                    // an Init message, interactive traffic
	frameBuffer = 66 << 10                   // one frame of any size
	bulkBuffer  = 4*MaxFrameLen&^4095 + 4096 // several frames in one call to the transport
)

// buffer is a pooled array. Its contents are stale, never key material.
type buffer struct {
	b    []byte
	pool *sync.Pool
}

// The pools are caches of what the allocator would give: they hold no state.
var (
	smallPool = newPool(smallBuffer)
	framePool = newPool(frameBuffer)
	bulkPool  = newPool(bulkBuffer)
)

func newPool(size int) *sync.Pool {
	pool := new(sync.Pool)
	pool.New = func() any { return &buffer{make([]byte, size), pool} }
	return pool
}

// getBuffer returns a buffer of at least n octets, or the largest there is.
func getBuffer(n int) *buffer {
	pool := bulkPool
	if n <= smallBuffer {
		pool = smallPool
	} else if n <= frameBuffer {
		pool = framePool
	}
	return pool.Get().(*buffer)
}

func (b *buffer) release() { b.pool.Put(b) }
