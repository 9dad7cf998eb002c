package tcpinc

import (
	"container/list"
	"iter"
)

// recent is a map that forgets the entry longest unused when it is full. Its zero value is empty.
type recent[K comparable, V any] struct {
	at   map[K]*list.Element
	used list.List // of *entry[K, V], most recently used first
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func (r *recent[K, V]) len() int { return len(r.at) }

// get returns an entry, nil if there is none. The pointer is good until the entry is forgotten.
func (r *recent[K, V]) get(key K) *V {
	e, ok := r.at[key]
	if !ok {
		return nil
	}
	r.used.MoveToFront(e)
	return &e.Value.(*entry[K, V]).value
}

// make returns an entry, a new one if there is none; limit bounds how many there are.
func (r *recent[K, V]) make(key K, limit int) *V {
	if v := r.get(key); v != nil {
		return v
	}
	if r.at == nil {
		r.at = make(map[K]*list.Element)
	}
	if len(r.at) >= limit {
		r.forget(r.used.Back())
	}
	e := &entry[K, V]{key: key}
	r.at[key] = r.used.PushFront(e)
	return &e.value
}

func (r *recent[K, V]) delete(key K) {
	if e, ok := r.at[key]; ok {
		r.forget(e)
	}
}

func (r *recent[K, V]) forget(e *list.Element) { delete(r.at, r.used.Remove(e).(*entry[K, V]).key) }

// all yields the entries, most recently used first; the one at hand may be deleted.
func (r *recent[K, V]) all() iter.Seq2[K, *V] {
	return func(yield func(K, *V) bool) {
		for e, next := r.used.Front(), (*list.Element)(nil); e != nil; e = next {
			next = e.Next()
			if v := e.Value.(*entry[K, V]); !yield(v.key, &v.value) {
				return
			}
		}
	}
}
