"""Cases 121-130: images that are there, and images that are not. Nothing is fetched."""

import pytest

from tests.conformance.cri.bench import Cri
from tests.conformance.cri.cases import case
from tests.lab import images

# The reference may be the same runtime, where an image can be removed once.
pytestmark = pytest.mark.in_turn
ABSENT = "podwire.local/absent:1"


@case(121, "images", "ListImages has every image once, with its names and its size")
def test_list_images_has_every_image_once(cri: Cri) -> None:
    listed = cri.ask("ListImages").images
    assert len({each.id for each in listed}) == len(listed)
    tags = [tag for each in listed for tag in each.repo_tags]
    assert {images.TOOLS, images.PERSON} <= set(tags)
    assert len(tags) == len(set(tags))
    assert all(each.size > 0 for each in listed)


@case(122, "images", "ListImages has what its filter lets through")
def test_list_images_has_what_its_filter_lets_through(cri: Cri) -> None:
    found = cri.call("ListImages", filter={"image": {"image": images.TOOLS}}).images
    assert [list(each.repo_tags) for each in found] == [[images.TOOLS]]
    assert not cri.call("ListImages", filter={"image": {"image": ABSENT}}).images


@case(123, "images", "ImageStatus of an image has id, size, names and user")
def test_image_status_has_id_size_names_and_user(cri: Cri) -> None:
    image = cri.call("ImageStatus", image={"image": images.PERSON}).image
    assert image.id
    assert image.size > 0
    assert list(image.repo_tags) == [images.PERSON]
    # kubelet runs the container as this user, unless the pod has one.
    assert image.username == "worker"
    assert not image.HasField("uid")


@case(124, "images", "ImageStatus finds an image by its id too")
def test_image_status_finds_an_image_by_its_id_too(cri: Cri) -> None:
    image = cri.call("ImageStatus", image={"image": images.TOOLS}).image
    assert cri.call("ImageStatus", image={"image": image.id}).image == image


@case(125, "images", "ImageStatus of an absent image is an answer without an image, not an error")
def test_image_status_of_an_absent_image_is_empty(cri: Cri) -> None:
    assert not cri.call("ImageStatus", image={"image": ABSENT}).HasField("image")


@case(126, "images", "ImageStatus tells more when it is asked to be verbose")
def test_image_status_tells_more_when_it_is_asked_to_be_verbose(cri: Cri) -> None:
    assert not cri.call("ImageStatus", image={"image": images.TOOLS}).info
    assert cri.call("ImageStatus", image={"image": images.TOOLS}, verbose=True).info


@case(127, "images", "RemoveImage removes an image by any of its names, and succeeds again")
@pytest.mark.parametrize("by", ["tag", "id"])
def test_remove_image_removes_and_succeeds_again(cri: Cri, by: str) -> None:
    cri.needs(cri.site.load, "no --load-command to bring the image back")
    cri.endpoint.load(images.spare())
    spare = cri.ask("ImageStatus", image={"image": images.SPARE}).image
    assert spare.id
    for _ in range(2):
        cri.call("RemoveImage", image={"image": images.SPARE if by == "tag" else spare.id})
        assert not cri.call("ImageStatus", image={"image": images.SPARE}).HasField("image")
    assert spare.id not in {each.id for each in cri.ask("ListImages").images}


@case(128, "images", "RemoveImage of an absent image succeeds")
def test_remove_image_of_an_absent_image_succeeds(cri: Cri) -> None:
    cri.call("RemoveImage", image={"image": ABSENT})


@case(129, "images", "PullImage of what no registry has is an error that names it, and leaves no image")
def test_pull_of_what_no_registry_has_is_an_error(cri: Cri) -> None:
    # Reserved addresses and ports: nothing answers, and the connection is refused at once.
    name = "127.0.0.1:1/absent:1"
    error = cri.refused("PullImage", image={"image": name})
    assert name in error.details
    assert not cri.call("ImageStatus", image={"image": name}).HasField("image")


@case(130, "images", "PullImage refuses what is no name")
def test_pull_image_refuses_what_is_no_name(cri: Cri) -> None:
    assert cri.refused("PullImage", image={"image": "Not A Name"}).details
