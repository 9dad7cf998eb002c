package stack

import (
	"io"
	"sync"
)

// transferSize is what one turn of WriteTo moves at most, in octets.
const transferSize = 256 << 10

// transferBuffers lend WriteTo its memory while there is data, and only then.
type transferBuffers struct{ pool sync.Pool }

func (t *transferBuffers) get() *[]byte {
	if b, ok := t.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, transferSize)
	return &b
}

func (t *transferBuffers) put(b *[]byte) { t.pool.Put(b) }

// WriteTo implements io.WriterTo: it moves what is received to w until io.EOF or an error. It holds no buffer while
// there is nothing to move.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if err := c.WaitRead(); err != nil {
			return total, err
		}
		buf := c.st.transfers.get()
		n, err := c.Read(*buf)
		if n > 0 {
			written, werr := w.Write((*buf)[:n])
			total += int64(written)
			if err == nil {
				err = werr
			}
		}
		c.st.transfers.put(buf)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
