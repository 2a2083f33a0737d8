"""What of the body files' room is given back, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postroad_transport.spool.occupancy import LOST_BYTES, Occupancy, Place

#: Files, each a list of the sizes of its contents; a quarter of what may be lost, so that a few reach the limit.
files = st.lists(st.lists(st.sampled_from([1, 1000, LOST_BYTES // 4]), min_size=1, max_size=6), max_size=8)


def places_of(sizes_by_file: list[list[int]]) -> list[Place]:
    return [
        Place(number, sum(sizes[:index]), size)
        for number, sizes in enumerate(sizes_by_file)
        for index, size in enumerate(sizes)
    ]


@given(sizes=files, data=st.data())
def test_all_room_is_given_back_once_and_none_that_is_needed(sizes: list[list[int]], data: st.DataObject) -> None:
    occupancy = Occupancy()
    places = places_of(sizes)
    occupancy.add(places)
    needed = set(places)
    lost: set[Place] = set()
    for gone in data.draw(st.permutations(places)):
        needed.remove(gone)
        lost.add(gone)
        freed = occupancy.release([gone])
        assert freed.files == ([] if any(place.file == gone.file for place in needed) else [gone.file])
        lost -= {place for place in lost if place.file in freed.files}
        assert set(freed.parts) <= lost
        assert len(freed.parts) == len(set(freed.parts))
        lost -= set(freed.parts)
        assert sum(place.size for place in lost) <= max(LOST_BYTES, sum(place.size for place in needed))
    assert not lost
    assert occupancy.reclaim() == []


def test_what_is_lost_is_given_back_at_once_when_room_is_short() -> None:
    occupancy = Occupancy()
    first, second = Place(1, 0, 10), Place(1, 10, 20)
    occupancy.add([first, second])
    assert occupancy.release([first]).parts == []
    assert occupancy.reclaim() == [first]
    assert occupancy.reclaim() == []
    assert occupancy.release([second]).files == [1]


def test_a_file_that_more_is_added_to_stays_until_it_is_complete() -> None:
    occupancy = Occupancy()
    occupancy.begin(1)
    place = Place(1, 0, 10)
    occupancy.add([place])
    assert occupancy.release([place]).files == []
    occupancy.add([Place(1, 10, 20)])
    assert occupancy.complete(1).files == []
    assert occupancy.release([Place(1, 10, 20)]).files == [1]
    occupancy.begin(2)
    assert occupancy.complete(2).files == [2]


@given(sizes=files, data=st.data())
def test_what_a_start_finds_beside_what_is_needed_is_lost(sizes: list[list[int]], data: st.DataObject) -> None:
    places = places_of(sizes)
    needed = data.draw(st.sets(st.sampled_from(places))) if places else set()
    found = {place.file for place in needed}
    occupancy = Occupancy()
    occupancy.find({number: sum(sizes[number]) for number in found}, needed)
    lost = occupancy.reclaim()
    # End to end they are the files, each octet once.
    for number in found:
        edges = sorted(
            (place.offset, place.offset + place.size) for place in (*lost, *needed) if place.file == number
        )
        assert [begin for begin, _ in edges] == [0, *(end for _, end in edges[:-1])]
        assert edges[-1][1] == sum(sizes[number])
    assert {place.file for place in lost} <= found
    freed = [number for place in needed for number in occupancy.release([place]).files]
    assert sorted(freed) == sorted(found)
