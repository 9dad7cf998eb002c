package innerspace

import "sync"

// Buffers come in two sizes, so that an option or a few octets do not hold what bulk transfer needs.
const (
	smallBuffer = 4 << 10
	unitBuffer  = 64 << 10
)

type buffer struct {
	b    []byte
	pool *sync.Pool
}

// The pools are caches of what the allocator would give: they hold no state.
var (
	smallPool = newPool(smallBuffer)
	unitPool  = newPool(unitBuffer)
)

func newPool(size int) *sync.Pool {
	pool := new(sync.Pool)
	pool.New = func() any { return &buffer{make([]byte, size), pool} }
	return pool
}

// getBuffer returns a buffer of at least n octets, n up to unitBuffer.
func getBuffer(n int) *buffer {
	if n <= smallBuffer {
		return smallPool.Get().(*buffer)
	}
	return unitPool.Get().(*buffer)
}

func (b *buffer) release() { b.pool.Put(b) }
